from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.measure import CANDIDATES, choose_candidates, measure, measure_alone
from benchmarks.peers import InTheClear
from benchmarks.process import measure_peak, run_alone
from benchmarks.results import Measured, Skipped
from benchmarks.systems import Candidate, Workload
from ppfl.codec import Parameters
from ppfl.errors import RunError, SettingsError
from tests.benchmarks.made_up import small_workload


def _candidate(name: str) -> Candidate:
    (candidate,) = choose_candidates([name])
    return candidate


@pytest.mark.parametrize("name", [candidate.name for candidate in CANDIDATES])
def test_the_average_of_every_system_is_right(name: str) -> None:
    workload = small_workload()
    row = measure(_candidate(name), workload, runs=1)
    if isinstance(row, Skipped):
        pytest.skip(row.reason)
    # a wrong average would have raised
    assert row.error < 2e-3
    assert row.seal.wall_s > 0
    assert row.up_bytes > 0
    assert row.extrapolated == (row.timed_parameters < workload.parameters)


def test_a_sample_is_scaled_up_to_the_whole_update() -> None:
    workload = small_workload()
    whole = _candidate("float32")
    rows = [measure(replace(whole, sample=sample), workload, runs=1) for sample in (0, 1_000)]
    exact, scaled = rows
    assert isinstance(exact, Measured)
    assert isinstance(scaled, Measured)
    assert not exact.extrapolated
    assert scaled.extrapolated
    assert scaled.timed_parameters == 1_020  # 17 rows
    assert scaled.up_bytes == pytest.approx(exact.up_bytes, rel=1e-3)
    assert scaled.peak_mb is None


@pytest.mark.parametrize(
    ("name", "package"), [("tenseal-ckks", "tenseal"), ("heu-zpaillier", "heu")]
)
def test_a_missing_package_is_a_reason_to_skip(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    row = measure(_candidate(name), small_workload(), runs=1)
    assert isinstance(row, Skipped)
    assert package in row.reason
    assert "pip install '.[bench]'" in row.reason


def test_an_engine_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SettingsError("no AVX-512 IFMA")

    monkeypatch.setattr("benchmarks.ours.create_engine", refuse)
    row = measure(_candidate("ppfl-native"), small_workload(), runs=1)
    assert row == Skipped("ppfl-native", "ppfl native", "no AVX-512 IFMA")


class _Off(InTheClear):
    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        average = super().open(wire)
        average["bn.running_mean"] = average["bn.running_mean"] + np.float32(0.001)
        return average


class _Short(InTheClear):
    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        average = super().open(wire)
        del average["classifier.bias"]
        return average


class _NotFinite(InTheClear):
    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        return {name: array * np.float32("nan") for name, array in super().open(wire).items()}


class _Rounded(InTheClear):
    def rounded_average(self, workload: Workload) -> Parameters:
        return {name: array.astype(np.float32) for name, array in workload.average().items()} | {
            "classifier.bias": np.ones(3, np.float32)
        }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Off, "bn.running_mean is off by"),
        (_Short, "shapes"),
        (_NotFinite, "is off by nan"),
        (_Rounded, "not that of the rounded updates"),
    ],
)
def test_a_wrong_average_ends_the_benchmark(kind: type[InTheClear], message: str) -> None:
    with pytest.raises(RunError, match=message):
        measure(replace(_candidate("float32"), create=kind), small_workload(), runs=1)


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(SettingsError, match="'nothing'") as caught:
        choose_candidates(["float32", "nothing"])
    assert "masks" in caught.value.hint


def test_a_processor_without_an_instruction_is_a_reason_to_skip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died = subprocess.CompletedProcess([], returncode=-4, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    row = measure_alone(
        _candidate("tenseal-ckks"), architecture="mobilenet_v2", key_bits=3072, threads=1, runs=1
    )
    assert isinstance(row, Skipped)
    assert "processor" in row.reason


def test_a_process_that_fails_says_how() -> None:
    with pytest.raises(RunError, match=r"exit code 1: .*no_such_module"):
        run_alone("no_such_module:act", {})


def test_an_error_in_a_process_is_told_as_it_is() -> None:
    with pytest.raises(RunError, match=r"^nothing:act ended with exit code 1"):
        run_alone("process:run_alone", {"task": "nothing:act", "arguments": {}})


def test_a_process_is_of_the_installed_program_whatever_lies_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone the sources lie there, and the compiled engine does not."""
    for package in ("ppfl", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('of the folder')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"No module named .*no_such_module"):
        run_alone("no_such_module:act", {})


def test_peak_memory_is_what_a_call_needed_at_once() -> None:
    size, peak_mb = measure_peak(lambda: len(b"x" * 100_000_000) + len(b"y" * 50_000_000))
    assert size == 150_000_000
    if peak_mb is None:
        pytest.skip("this system does not tell the peak of a process")
    assert 80 < peak_mb < 140
