"""`ppfl compare-methods`, small: cells of phantoms, stopped between them and gone on with."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ppfl.errors import (
    DataError,
    ModelError,
    NotFiniteError,
    PpflError,
    RunError,
    SettingsError,
    UnreadableImageError,
    WeightsError,
)
from ppfl.files import lock_file
from ppfl.report import CellResult
from ppfl.settings import Study
from simulations.main import _app
from simulations.methods import cells, command
from simulations.methods.cells import Cell
from simulations.methods.methods import METHODS, SCENARIOS, Method
from simulations.scenario import read_scenario
from tests.simulations.tiny import cell_result, phantom_table

_SMALL = (
    *("--quick", "--scenarios", "natural", "--jobs", "1"),
    *("--rounds", "1", "--set", "local_epochs=1"),
)
_BY_KEY = {method.key: method for method in METHODS}
_TALK = Console(stderr=True)


def _compare(out: Path, *arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(
        _app,
        [
            "compare-methods",
            *_SMALL,
            "--set",
            "key_bits=2048",
            "--out",
            str(out),
            *arguments,
        ],
        catch_exceptions=False,
    )
    told: list[dict[str, Any]] = json.loads(result.stdout)
    return told


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {
        name: ({"Normal": 12, "Effusion": 12}, scanner)
        for name, (_, scanner) in command._QUICK_HOSPITALS.items()
    }
    monkeypatch.setattr(command, "_QUICK_HOSPITALS", few)


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(cells, "prepare_or_resume", trained)


@pytest.mark.usefixtures("_few")
def test_cells_are_trained_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pooled,) = _compare(tmp_path, "--methods", "pooled", "--json")
    kept = tmp_path / "results" / "natural.pooled.2022.json"
    before = kept.stat().st_mtime_ns
    told = _compare(tmp_path, "--methods", "pooled,fedbn,tail", "--json")
    assert kept.stat().st_mtime_ns == before
    assert told[0] == pooled
    fedbn = told[1]
    assert (fedbn["method"], fedbn["scenario"], fedbn["seed"]) == ("fedbn", "natural", 2022)
    figures = fedbn["figures"]
    assert pooled["figures"]["bytes_up"] == 0
    assert pooled["figures"]["accuracy"] == pooled["figures"]["everywhere"]
    assert figures["sites"] == 3
    assert "Paillier" in figures["protection"]
    assert figures["bytes_up"] > 100_000
    assert len(figures["right"]) == len(figures["models_right"]) == sum(figures["patients"])
    assert figures["right"].count("1") / len(figures["right"]) == figures["accuracy"]["value"]
    assert figures["tests_sha256"] == pooled["figures"]["tests_sha256"]
    assert figures["worst_site"] == ""  # none has 20 test images
    # a network without that layer is no reason to end
    assert told[2]["method"] == "tail"
    assert told[2]["figures"] is None
    assert "features.14" in told[2]["failure"]
    page = (tmp_path / "methods.html").read_text()
    assert "<svg" in page
    assert "features.14" in page
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["pooled", "fedbn", "tail"]
    assert float(rows[1]["accuracy"]) == figures["accuracy"]["value"]
    # only what failed is left of the trainings, and nothing is needed of them
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "models")
    _forbid(monkeypatch)
    assert _compare(tmp_path, "--methods", "pooled,fedbn,tail", "--json") == told
    with pytest.raises(AssertionError, match="trained again"):
        _compare(tmp_path, "--methods", "tail", "--retry", "--json")
    # results of other settings are not mixed in
    changed = [
        "compare-methods",
        *_SMALL,
        "--methods",
        "pooled",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(_app, [*changed, "--set", "label_smoothing=0.1"])
    assert isinstance(result.exception, RunError)
    assert "other settings" in str(result.exception)


@pytest.mark.usefixtures("_few")
def test_what_is_wrong_with_the_machine_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: PpflError) -> None:
        def prepare(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(cells, "prepare_or_resume", prepare)

    full = ModelError("no room")
    full.__context__ = OSError(errno.ENOSPC, "No space left on device")
    patient = UnreadableImageError("/x/Normal/Doe_John.dcm: not a readable image")
    stopped = PpflError("a was not in round 1")
    for error in (full, patient, stopped, WeightsError("no network"), RunError("in use")):
        fail(error)
        with pytest.raises(type(error)) as caught:
            _compare(tmp_path, "--methods", "pooled", "--json")
        assert caught.value is error
        assert not list((tmp_path / "results").iterdir())
    for settings in (NotFiniteError("NaN"), ModelError("no such layer"), DataError("none")):
        fail(settings)
        (result,) = _compare(tmp_path, "--methods", "pooled", "--retry", "--json")
        assert result["failure"] == str(settings)


def test_one_command_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    arguments = ["compare-methods", *_SMALL, "--methods", "pooled", "--out", str(tmp_path)]
    with lock_file(tmp_path / ".lock"):
        result = CliRunner().invoke(_app, arguments)
    assert isinstance(result.exception, RunError)
    assert "in use" in str(result.exception)
    (tmp_path / "results").rmdir()
    (tmp_path / "results").write_text("a file")
    result = CliRunner().invoke(_app, arguments)
    assert isinstance(result.exception, FileExistsError)  # before anything is trained
    assert not (tmp_path / "phantoms").exists()


@pytest.mark.usefixtures("_few")
def test_several_seeds_are_several_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(cell: Cell, *, results: Path, **_: Any) -> CellResult:
        digests = {"settings_sha256": cell.settings_sha256, "data_sha256": cell.data_sha256}
        result = cell_result("fedavg", "10", scenario=cell.name, seed=cell.seed, **digests)
        results.mkdir(exist_ok=True)
        cell.place(results).write_text(result.model_dump_json())
        return result

    monkeypatch.setattr(command, "run_cell", run)
    results = tmp_path / "kept"
    arguments = ["--methods", "fedavg", "--seeds", "2022,1", "--results", str(results)]
    told = _compare(tmp_path, *arguments, "--json")
    assert [(cell["method"], cell["seed"]) for cell in told] == [("fedavg", 2022), ("fedavg", 1)]
    assert {path.name for path in results.iterdir()} == {
        "natural.fedavg.2022.json",
        "natural.fedavg.1.json",
    }


def test_labels_of_no_class_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = {"Normal": 2, "Effusion": 2, "Nodule": 1}
    table = phantom_table(tmp_path / "x", a=count, b=count)
    monkeypatch.setattr(command, "side_by_side", lambda *_, **__: iter(()))
    arguments = ["compare-methods", "--data", str(table), "--out", str(tmp_path / "out")]
    arguments += ["--scenarios", "natural", "--set", 'classes=["Normal", "Effusion"]']
    result = CliRunner().invoke(_app, [*arguments, "--set", "start=seed", "--json"])
    assert result.exit_code == 0
    assert "left out, being of no class of the study: Nodule (2)" in result.stderr


def test_a_file_that_is_named_like_a_built_in_scenario_takes_its_place(tmp_path: Path) -> None:
    table = phantom_table(tmp_path / "x", a={"Normal": 6, "Effusion": 6}, b={"Normal": 6})
    own, results = tmp_path / "natural.toml", tmp_path / "results"
    own.write_text('extends = "natural"\n[study.training]\nrounds = 2\n')
    changes = ['classes=["Normal", "Effusion"]', "start=seed"]
    made = command._Table(table, changes, [None], [str(own)])
    (cell,) = made.cells([str(own)], [_BY_KEY["fedavg"]])
    digests = {"settings_sha256": cell.settings_sha256, "data_sha256": cell.data_sha256}
    result = cell_result("fedavg", "10", scenario="natural", **digests)
    assert made.done(results) == []
    results.mkdir()
    cell.place(results).write_text(result.model_dump_json())
    assert made.done(results) == [result]
    assert command._Table(table, changes, [None], ["natural"]).done(results) == []
    with pytest.raises(SettingsError, match="two of them have one name"):
        command._Table(table, changes, [None], ["natural", str(own)])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_the_settings_of_every_method_make_a_study(method: Method) -> None:
    for name in SCENARIOS:
        table = read_scenario(name, changes=method.changes).study
        table["federation"]["sites"] = ["a", "b"]
        assert Study.model_validate(table)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["--quick", "--methods", "fedavg,fedz"], "--methods fedz: methods are pooled, local"),
        (["--quick", "--scenarios", "none"], "none: no such scenario"),
        (["--quick", "--seeds", "1,x"], "--seeds x: must be numbers"),
        (
            ["--quick", "--methods", "fedavg,sgd", "--set", "momentum=0.5"],
            "--set momentum: sgd would not follow it",
        ),
        (
            ["--quick", "--methods", "fedbn,head", "--set", "model={}"],
            "--set model: fedbn, head would not follow it",
        ),
        (["--quick", "--set", "seed=abc"], "study: seed: Input should be a valid integer"),
        (["--quick", "--set", "seed=2022.5"], "study: seed: Input should be a valid integer"),
        (["--quick", "--seeds", "4294967296"], "study: seed: Input should be less than"),
        (["--quick", "--set", "encryption=x"], "study: encryption: Input should be a valid dict"),
        (["--quick", "--set", "name=2022-01-01"], "study: name: Input should be a valid string"),
        (["--quick", "--set", "batch_size=0"], "study: training.batch_size: Input should be gr"),
        ([], "either --quick or --data"),
    ):
        result = CliRunner().invoke(_app, ["compare-methods", *arguments, "--out", str(tmp_path)])
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)
