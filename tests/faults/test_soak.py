"""What the soak draws, says and writes, without a soak."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.memory import Growth
from tests.faults.soak import Blow, Played, Soak, draw_blows, finish

_SITES = ("alpha", "beta", "gamma")


def _drawn(seed: int, rounds: int = 30) -> list[Blow | None]:
    return list(draw_blows(seed, rounds=rounds, sites=_SITES))


def test_a_seed_stands_for_the_same_faults_for_ever() -> None:
    assert _drawn(1) == _drawn(1)
    assert _drawn(1, rounds=10) == _drawn(1)[:10]
    assert _drawn(1) != _drawn(2)
    assert _drawn(1, rounds=6) == [
        Blow("kill", "gamma", "supernode"),
        Blow("power", "coordinator"),
        Blow("kill", "alpha", "supernode"),
        Blow("kill", "coordinator", "superlink"),
        Blow("stop", "gamma", "clientapp"),
        Blow("stop", "coordinator", "gateway"),
    ]


def test_faults_of_every_kind_are_drawn_and_hit_what_they_can_hit() -> None:
    drawn = _drawn(3, rounds=2000)
    blows = [blow for blow in drawn if blow is not None]
    assert 0.65 < len(blows) / len(drawn) < 0.75
    assert {blow.how for blow in blows} == {"kill", "stop", "cut", "power"}
    assert {blow.where for blow in blows} == {"coordinator", *_SITES}
    assert all(bool(blow.program) == (blow.how in ("kill", "stop")) for blow in blows)
    assert all(blow.where in _SITES for blow in blows if blow.how == "cut")
    at_sites = {blow.program for blow in blows if blow.where in _SITES}
    assert at_sites == {"supernode", "superexec", "clientapp", ""}


def test_what_came_too_late_is_not_told_as_a_fault_that_struck() -> None:
    soak = Soak()
    kill = Blow("kill", "alpha", "supernode")
    soak.rounds = [
        Played(1, kill, True, 10.0),
        Played(2, kill, False, 5.0),
        Played(3, None, False, 4.0),
    ]
    assert [str(played) for played in soak.rounds] == [
        "round 1: 10 s; `kill -9` of alpha's supernode",
        "round 2: 5 s; came too late: `kill -9` of alpha's supernode",
        "round 3: 4 s; nothing",
    ]
    assert str(soak) == (
        "3 rounds closed in 19 s; faults that struck: kill 1; that came too late: 1; "
        "0 samples of memory"
    )
    assert str(Soak()).startswith("0 rounds closed in 0 s; faults that struck: none;")


@pytest.mark.parametrize(("slope", "flat"), [(0.1, True), (5.0, False), (None, True)])
def test_the_page_is_not_written_when_something_grew(
    slope: float | None, flat: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "soak.md"
    page.write_text("before")
    growth = Growth("site: supernode", 1, 20, 50.0, 60.0, slope, None if slope is None else 0.1)
    assert finish("after", [growth], page=page) == flat
    assert page.read_text() == ("after" if flat else "before")
    told = capsys.readouterr().out
    assert ("site: supernode grows by more than" in told) != flat
