"""A study small enough for tests: three hospitals of phantoms, a small network, a 2048-bit key."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import simulations.runner
from ppfl.learning.sources import read_records, write_manifest
from ppfl.report import CellFigures, CellResult, Estimate
from ppfl.settings import Study
from ppfl.xray import write_phantoms
from simulations.methods.methods import METHODS
from simulations.prepare import prepare
from simulations.scenario import Scenario

COUNTS = {"Normal": 8, "Effusion": 8}
SITES = ("east", "north", "west")


def tiny_scenario(custody: str, *, key_bits: int = 2048, **sections: dict[str, Any]) -> Scenario:
    """The scenario; further sections of the study are merged over its own."""
    study: dict[str, Any] = {
        "name": "tiny",
        "classes": ["Normal", "Effusion"],
        "images": {"size": 64},
        "model": {"architecture": "shufflenet_v2_x0_5"},
        "training": {"rounds": 2, "batch_size": 8},
        "encryption": {"custody": custody},
        "federation": {"release_floor": 1},
    }
    for name, table in sections.items():
        study[name] = study[name] | table
    hospitals = [{"name": name, "counts": COUNTS} for name in SITES]
    return Scenario.model_validate(
        {"study": study, "simulation": {"phantoms": hospitals, "key_bits": key_bits}}
    )


def prepare_once(scenario: Scenario, folder: Path) -> Study:
    """What ``prepare`` does; from the second time on, the same pictures and keys are copied."""
    shutil.copytree(_prepared(scenario.model_dump_json()), folder)
    return Study.read(folder / "study.toml")


@cache
def _prepared(scenario: str) -> Path:
    root = tempfile.mkdtemp(prefix="ppfl-tests-")
    atexit.register(shutil.rmtree, root)
    prepare(Scenario.model_validate_json(scenario), Path(root, "run"))
    return Path(root, "run")


def run_without_report(folder: Path) -> None:
    """Run a study in this process; to draw its report would take longer than such a round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulations.runner, "leave_report", lambda _: None)
        simulations.runner.run_in_process(folder)


def cell_result(method: str, right: str, **changes: Any) -> CellResult:
    """A cell of `ppfl compare-methods`: two sites have one model, right where ``right`` has a 1."""
    value = right.count("1") / len(right)
    estimate = Estimate(value=value, low=value, high=value)
    figures = CellFigures(
        size=64,
        rounds=1,
        local_epochs=1,
        sites=2,
        accuracy=estimate,
        everywhere=estimate,
        macro_auroc=0.9,
        worst_site="a",
        worst_accuracy=estimate,
        minutes=1,
        bytes_up=1_000_000,
        protection="",
        tests_sha256="0",
        patients=(1,) * len(right),
        right=right,
        models_right=tuple(2 * int(digit) for digit in right),
    )
    result = CellResult(
        method=method,
        name=next(m.name for m in METHODS if m.key == method),
        scenario="iid",
        seed=2022,
        settings_sha256="0",
        data_sha256="0",
        figures=figures,
    )
    return result.model_copy(update=changes)


def phantom_table(folder: Path, **counts: dict[str, int]) -> Path:
    """A table of hospitals."""
    records = []
    for name, count in counts.items():
        place = folder / name
        write_phantoms(place, counts=count, size=64, seed=1, patients_prefix=f"p{name}")
        records += [(record, name) for record in read_records(place)]
    write_manifest(
        folder / "index.csv",
        [type(r)(r.path, r.label, r.group, name) for r, name in records],
    )
    return folder / "index.csv"
