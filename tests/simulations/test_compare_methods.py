"""`ppfl compare-methods`, small: two cells of phantoms, stopped between them and gone on with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import simulations.runner
from ppfl.errors import RunError, SettingsError
from ppfl.settings import Study
from simulations.main import _app
from simulations.methods import command
from simulations.methods.methods import METHODS, SCENARIOS
from simulations.scenario import read_scenario

_SMALL = ("--quick", "--scenarios", "natural", "--rounds", "1", "--set", "local_epochs=1")


def _compare(out: Path, *arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(
        _app,
        ["compare-methods", *_SMALL, "--set", "key_bits=2048", "--out", str(out), *arguments],
        catch_exceptions=False,
    )
    told: list[dict[str, Any]] = json.loads(result.stdout)
    return told


def test_cells_are_trained_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulations.runner, "leave_report", lambda _: None)  # takes longer
    few = {
        name: ({"Normal": 12, "Effusion": 12}, scanner)
        for name, (_, scanner) in command._QUICK_HOSPITALS.items()
    }
    monkeypatch.setattr(command, "_QUICK_HOSPITALS", few)
    (pooled,) = _compare(tmp_path, "--methods", "pooled", "--json")
    cell = tmp_path / "natural" / "pooled" / "cell.json"
    before = cell.stat().st_mtime_ns
    told = _compare(tmp_path, "--methods", "pooled,fedbn", "--json")
    assert cell.stat().st_mtime_ns == before
    assert told[0] == pooled
    assert pooled["bytes_up"] == 0
    fedbn = told[1]
    assert (fedbn["method"], fedbn["scenario"], fedbn["sites"]) == ("fedbn", "natural", 3)
    assert "Paillier" in fedbn["protection"]
    assert fedbn["bytes_up"] > 100_000
    assert fedbn["worst_site"] in few
    assert fedbn["worst_accuracy"]["value"] <= fedbn["accuracy"]["value"]
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["pooled", "fedbn"]
    assert float(rows[1]["accuracy"]) == fedbn["accuracy"]["value"]
    assert "<svg" in (tmp_path / "methods.html").read_text()
    # what was begun with other settings is not mixed in
    changed = ["compare-methods", *_SMALL, "--methods", "pooled", "--out", str(tmp_path)]
    result = CliRunner().invoke(_app, [*changed, "--set", "seed=1"])
    assert isinstance(result.exception, RunError)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_the_settings_of_every_method_make_a_study(method: Any) -> None:
    for name in SCENARIOS:
        table = read_scenario(name, changes=method.changes).study
        table["federation"]["sites"] = ["a", "b"]
        assert Study.model_validate(table)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["--quick", "--methods", "fedavg,fedz"], "--methods fedz: methods are pooled, local"),
        (["--quick", "--scenarios", "none"], "none: no such scenario"),
        ([], "either --quick or --data"),
    ):
        result = CliRunner().invoke(_app, ["compare-methods", *arguments, "--out", str(tmp_path)])
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)
