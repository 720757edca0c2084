from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from ppfl.errors import BehindError
from ppfl.learning.server_optimiser import ServerState
from ppfl.settings import Study
from sites.requests import Parameters
from sites.server_states import ServerStates, history_after

_TOTALS = [b"one", b"two", b"three"]


def _study(kind: str = "fedadam") -> Study:
    return Study.model_validate(
        {
            "name": "a",
            "classes": ["x", "y"],
            "training": {"server_optimiser": kind},
            "federation": {"sites": ["east", "west"]},
        }
    )


def _array(value: float) -> Parameters:
    return {"a.weight": np.linspace(value, 1, 6, dtype=np.float32).reshape(2, 3)}


def _histories(totals: list[bytes]) -> list[str]:
    histories = [""]
    for total in totals:
        histories.append(history_after(histories[-1], total))
    return histories


def _step(states: ServerStates, number: int, totals: list[bytes] = _TOTALS) -> Parameters:
    history = _histories(totals)[number]
    total = totals[number - 1]
    average = _array(total[0] / 100)
    return states.step(average, _array(0), round_number=number, total=total, history=history)


@pytest.mark.parametrize("kind", ["fedavgm", "fedyogi"])
def test_a_state_that_was_kept_goes_on_as_one_in_memory(tmp_path: Path, kind: str) -> None:
    study = _study(kind)
    state = ServerState.at_start(_array(0), study.training)
    for number in (1, 2, 3):
        state = state.step(_array(_TOTALS[number - 1][0] / 100), study.training)
        for _ in range(2):  # a round that is asked for again
            found = _step(ServerStates(tmp_path, study), number)
            assert np.array_equal(found["a.weight"], state.model["a.weight"])
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["server-2.safetensors", "server-3.safetensors"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert ServerStates(tmp_path, study).history() == _histories(_TOTALS)[3]


def test_a_site_that_missed_a_total_says_so_and_comes_to_the_same_state(tmp_path: Path) -> None:
    study = _study()
    (tmp_path / "there").mkdir()
    (tmp_path / "away").mkdir()
    there, away = ServerStates(tmp_path / "there", study), ServerStates(tmp_path / "away", study)
    for number in (1, 2, 3):
        expected = _step(there, number)
    _step(away, 1)
    with pytest.raises(BehindError, match="state before round 3 is not here"):
        _step(away, 3)
    assert away.history() == _histories(_TOTALS)[1]
    _step(away, 2)
    assert np.array_equal(_step(away, 3)["a.weight"], expected["a.weight"])


def test_a_damaged_state_is_as_good_as_none(tmp_path: Path) -> None:
    study = _study()
    for number in (1, 2):
        expected = _step(ServerStates(tmp_path, study), number)
    for text in (b"", (tmp_path / "server-2.safetensors").read_bytes()[:-1]):
        (tmp_path / "server-2.safetensors").write_bytes(text)
        assert ServerStates(tmp_path, study).history() == ""
        with pytest.raises(BehindError):
            _step(ServerStates(tmp_path, study), 3)
        for number in (1, 2):  # the coordinator sends them again
            again = _step(ServerStates(tmp_path, study), number)
        assert np.array_equal(again["a.weight"], expected["a.weight"])
        assert ServerStates(tmp_path, study).history() == _histories(_TOTALS)[2]


def test_a_state_of_a_round_that_was_done_again_without_this_site_is_forgotten(
    tmp_path: Path,
) -> None:
    study, other = _study(), [b"one", b"TWO", b"three"]
    states = ServerStates(tmp_path, study)
    for number in (1, 2):
        _step(states, number)
    _step(states, 1, other)  # the coordinator sends all from the first, which is the same
    assert states.history() == _histories(other)[1]
    for number in (2, 3):
        _step(states, number, other)
    assert states.history() == _histories(other)[3]


def test_a_state_of_other_totals_is_never_stepped_from(tmp_path: Path) -> None:
    study, states = _study(), ServerStates(tmp_path, _study())
    for number in (1, 2):
        _step(states, number)
    other = [b"one", b"TWO", b"three"]  # round 2 was done again while the site was away
    with pytest.raises(BehindError):
        _step(states, 3, other)
    again = _step(states, 2, other)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for number in (1, 2):
        expected = _step(ServerStates(fresh, study), number, other)
    assert np.array_equal(again["a.weight"], expected["a.weight"])
    another_study = ServerStates(tmp_path, _study("fedyogi"))
    assert another_study.history() == ""
    with pytest.raises(BehindError):
        _step(another_study, 3)
