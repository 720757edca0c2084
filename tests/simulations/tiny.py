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
from ppfl.settings import Study
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
