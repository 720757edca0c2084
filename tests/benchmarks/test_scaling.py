from __future__ import annotations

from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling import add_updates, measure_scaling, measure_tensor
from tests.benchmarks.made_up import small_workload


def test_a_coordinator_adds_every_site() -> None:
    point = add_updates(small_workload(), sites=40)
    assert (point.sites, point.added) == (40, 40)
    assert point.add_s > 0


def test_a_slow_coordinator_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_ADDING_S", 0.0)
    assert add_updates(small_workload(), sites=40).added == 1


def test_one_tensor_is_sealed_and_opened() -> None:
    workload = small_workload()
    point = measure_tensor(workload)
    assert point.values == workload.parameters
    assert not point.extrapolated
    assert point.up_bytes > workload.parameters


def _pretend(task: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if task == "scaling:measure_values":
        values = arguments["values"]
        row = {"values": values, "extrapolated": False, "seal_s": values * 1e-7}
        return row | {"open_s": values * 1e-6, "up_bytes": values * 5, "peak_mb": 1.0}
    if task == "scaling:measure_sites":
        row = {"sites": arguments["sites"], "added": arguments["sites"], "add_s": 0.05}
        return row | {"up_bytes": 12, "peak_mb": None}
    bits = arguments["key_bits"]
    return {"key_bits": bits, "seal_us": 0.1, "open_us": 0.5, "up_bytes": 5.2}


@pytest.mark.parametrize("large", [False, True])
def test_what_is_too_large_is_extrapolated_unless_it_is_asked_for(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "run_alone", _pretend)
    growth = measure_scaling(architecture="mobilenet_v2", key_bits=3072, threads=1, large=large)
    largest = growth.values[-1]
    assert largest.values == 10**8
    assert largest.seal_s == pytest.approx(10)
    assert largest.up_bytes == 5 * 10**8
    assert largest.extrapolated is not large
    assert [point.sites for point in growth.sites] == [2, 10, 100, 1000]
    assert [point.key_bits for point in growth.keys] == [2048, 3072, 4096]
