from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator.catching_up import CatchingUp
from coordinator.roster import Answered, Roster
from ppfl.errors import RunError
from ppfl.settings import Study
from sites.requests import Answer, Refusal
from sites.server_states import history_after

_TOTALS = [b"one", b"two", b"three"]


def _study(kind: str = "fedavgm") -> Study:
    return Study.model_validate(
        {
            "name": "a",
            "classes": ["x", "y"],
            "training": {"server_optimiser": kind},
            "federation": {"sites": ["east", "west"]},
        }
    )


class _Sites:
    """Two sites in a roster's place, which step over the totals that they are sent."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.nodes, self.names = [1, 2], ("east", "west")
        self.sent: list[tuple[int, bytes]] = []
        self.failed: list[tuple[int, str]] = []
        self._stuck = stuck
        self._histories = {1: "", 2: ""}

    def ask(self, kind: str, nodes: list[int], content: Any, number: int) -> Iterator[Answered]:
        assert kind == "query.catch_up"
        for node in nodes:
            if content.get("total"):
                self.sent.append((node, content["total"]))
                if not self._stuck:
                    self._histories[node] = content["history"]
            answer = Answer(history=self._histories[node])
            yield Answered(node, self.names[node - 1], answer)

    def fail(self, number: int, node: int, refusal: Refusal) -> None:
        self.failed.append((node, refusal.code))


def _catching_up(folder: Path, roster: _Sites, study: Study | None = None) -> CatchingUp:
    def request(number: int, **fields: Any) -> Any:
        return fields

    return CatchingUp(folder, study or _study(), cast(Roster, roster), request)


def _kept(folder: Path, roster: _Sites) -> CatchingUp:
    catching_up = _catching_up(folder, roster)
    for number, total in enumerate(_TOTALS, start=1):
        catching_up.keep(number, total)
    return catching_up


def test_a_site_is_sent_the_totals_that_it_missed_in_their_order(tmp_path: Path) -> None:
    sites = _Sites()
    catching_up = _kept(tmp_path, sites)
    catching_up.note("east", 3)  # it has stepped over total 2, as round 4 demands
    assert catching_up.bring_into_step(4, {}) == [1, 2]
    assert sites.sent == [(2, b"one"), (2, b"two")]
    assert catching_up.bring_into_step(4, {}) == [1, 2]
    assert len(sites.sent) == 2
    catching_up.note("east", 4)
    assert catching_up.bring_into_step(5, {}) == [1, 2]
    assert sites.sent[2:] == [(2, b"three")]


def test_another_process_knows_the_history_and_asks_how_far_the_sites_are(tmp_path: Path) -> None:
    sites = _Sites()
    history = _kept(tmp_path, sites).history
    again = _catching_up(tmp_path, sites)
    again.resume(3)
    expected = ""
    for total in _TOTALS:
        expected = history_after(expected, total)
    assert again.history == history == expected
    assert again.bring_into_step(3, {}) == [1, 2]
    assert sorted(sites.sent) == [(1, b"one"), (2, b"one")]


def test_a_site_that_does_not_step_is_left_out_and_named(tmp_path: Path) -> None:
    sites = _Sites(stuck=True)
    catching_up = _kept(tmp_path, sites)
    catching_up.note("east", 3)
    assert catching_up.bring_into_step(4, {}) == [1]
    assert sites.failed == [(2, "behind")]


def test_without_a_kept_total_the_run_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the total of round 1 is not there"):
        _catching_up(tmp_path, _Sites()).resume(1)


def test_plain_averaging_keeps_and_asks_nothing(tmp_path: Path) -> None:
    catching_up = _catching_up(tmp_path, _Sites(), _study("average"))
    catching_up.keep(1, b"one")
    catching_up.resume(1)
    assert catching_up.history == ""
    assert catching_up.bring_into_step(9, {}) == [1, 2]
    assert not list(tmp_path.iterdir())
