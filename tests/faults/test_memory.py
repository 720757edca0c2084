"""The slope of memory that the soak judges by, against one that is known."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest

from coordinator.serve import CoordinatorPlace, coordinator_programs
from tests.faults.memory import _PROGRAMS, Growth, Sample, growth_of
from tests.live.federation import COORDINATOR


def _of_one(megabytes: list[float]) -> Growth:
    samples = [
        Sample(number, "site: supernode", (1, 0.0), each)
        for number, each in enumerate(megabytes, start=1)
    ]
    (growth,) = growth_of(samples)
    return growth


def test_growth_is_of_the_processes_and_not_of_their_succession() -> None:
    first = [Sample(n, "site: supernode", (1, 0.0), 50.0 + 2.0 * n) for n in range(1, 6)]
    first[0] = Sample(1, "site: supernode", (1, 0.0), 5.0)  # was loading
    second = [Sample(n, "site: supernode", (2, 9.0), 20.0 + 2.0 * n) for n in range(6, 10)]
    (growth,) = growth_of([*first, *second])
    assert (growth.role, growth.processes, growth.samples) == ("site: supernode", 2, 7)
    assert growth.slope == pytest.approx(2.0)
    assert growth.error == pytest.approx(0.0, abs=1e-9)
    assert (growth.lowest, growth.highest) == (34.0, 60.0)


def test_a_role_that_was_not_seen_long_enough_is_named_without_a_slope() -> None:
    assert _of_one([800.0]) == Growth("site: supernode", 1, 1, 800.0, 800.0)
    assert _of_one([800.0, 700.0, 900.0]) == Growth("site: supernode", 1, 3, 700.0, 900.0)
    assert _of_one([800.0]).verdict() == ""


def test_what_grows_and_what_is_too_noisy_to_tell_does_not_pass() -> None:
    assert _of_one([100.0 + 0.5 * n for n in range(20)]).verdict() == ""
    assert "grows by more than 1 MB" in _of_one([100.0 + 1.5 * n for n in range(20)]).verdict()
    noise = cycle([-60.0, 60.0])
    noisy = _of_one([100.0 + 1.5 * n + next(noise) for n in range(20)])
    assert noisy.slope is not None
    assert noisy.error is not None
    assert noisy.slope - 2 * noisy.error < 0  # so the first bound alone would let it pass
    assert "may grow by more than 3 MB" in noisy.verdict()


def test_every_program_that_lasts_at_the_coordinator_is_looked_at(tmp_path: Path) -> None:
    place = CoordinatorPlace(
        folder=tmp_path,
        run=tmp_path,
        listen="127.0.0.1",
        port=1,
        superlink_port=2,
        certificate=tmp_path,
        certificate_key=tmp_path,
        authority=tmp_path,
        journal_key=tmp_path,
        sites={},
        dashboard_port=3,
    )
    supervised = {program.name for program in coordinator_programs(place)}
    assert set(_PROGRAMS[COORDINATOR]) == {"command", *supervised, "serverapp"}
