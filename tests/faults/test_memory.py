"""The slope of memory that the soak judges by, against one that is known."""

from __future__ import annotations

import pytest

from tests.faults.memory import Sample, growth_of


def test_growth_is_of_the_processes_and_not_of_their_succession() -> None:
    first = [Sample(n, "site: supernode", (1, 0.0), 50.0 + 2.0 * n) for n in range(1, 6)]
    first[0] = Sample(1, "site: supernode", (1, 0.0), 5.0)  # was loading
    second = [Sample(n, "site: supernode", (2, 9.0), 20.0 + 2.0 * n) for n in range(6, 10)]
    short = [Sample(1, "coordinator: serverapp", (3, 0.0), 800.0)]
    (growth,) = growth_of([*first, *second, *short])
    assert (growth.role, growth.processes, growth.samples) == ("site: supernode", 2, 7)
    assert growth.slope == pytest.approx(2.0)
    assert growth.error == pytest.approx(0.0, abs=1e-9)
    assert (growth.lowest, growth.highest) == (34.0, 60.0)
