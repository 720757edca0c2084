"""`ppfl compare-methods`, small: cells of phantoms, stopped between them and gone on with."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from ppfl.errors import RunError, SettingsError
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.sources import read_records, write_manifest
from ppfl.learning.study_model import StudyModel
from ppfl.report import CellFigures, CellResult, Estimate, method_findings, method_rows
from ppfl.settings import Study
from ppfl.xray import write_phantoms
from simulations.comparison.baselines import train_pooled
from simulations.main import _app
from simulations.methods import cells, command
from simulations.methods.cells import Cell, data_digest
from simulations.methods.methods import METHODS, SCENARIOS, Method
from simulations.outcome import prepare_or_resume
from simulations.prepare import prepare
from simulations.scenario import Scenario, read_scenario
from tests.simulations.tiny import SITES, prepare_once, run_without_report, tiny_scenario

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


def _phantoms(folder: Path, **counts: dict[str, int]) -> Path:
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


def _cell(method: str, scenario: Scenario, data: str = "") -> Cell:
    return Cell(_BY_KEY[method], scenario, "s", data)


def _constant(answer: int, brightness: float = 0.0) -> StudyModel:
    """Answers one class of two, or, with a brightness, the second where an image is bright."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0], [brightness]]).expand(2, 3))
        network[2].bias.copy_(torch.eye(2)[answer] - brightness)
    return StudyModel(network, "none", ("Normal", "Effusion"), 32, (0.0, 1.0))


def test_a_model_that_answers_its_hospitals_class_loses_on_all_sites_tests() -> None:
    study = tiny_scenario("unsafe_plaintext", federation={"sites": ["a", "b", "c"]}).study
    tests = {
        name: ImageSet(
            np.full((count, 32, 32), 255 * label, np.uint8),
            np.full(count, label),
            tuple(f"{name}{i // 2}" for i in range(count)),
        )
        for name, label, count in (("b", 1, 30), ("a", 0, 20), ("c", 1, 10))
    }
    tests["b"].images[:6] = 0  # what even the best of them gets wrong
    alone = {"a": _constant(0), "b": _constant(1), "c": _constant(1)}
    shared = dict.fromkeys("abc", _constant(0, brightness=1.0))
    shared["c"] = _constant(0, brightness=1.0)  # as read from another file
    agreed = Study.model_validate(study)
    local = cells._test(cells._Trained(alone, 1.0), agreed, tests)
    pooled = cells._test(cells._Trained(shared, 1.0), agreed, tests)
    assert local.accuracy.value == 1 > pooled.accuracy.value == 0.9
    assert pooled.everywhere == pooled.accuracy
    assert local.everywhere.value == pytest.approx((20 / 60 + 40 / 60 + 40 / 60) / 3)
    assert local.everywhere.high < pooled.everywhere.low
    # the worst of those that have images enough, with all its patients side by side
    assert (pooled.worst_site, local.worst_site) == ("b", "b")
    assert pooled.worst_accuracy is not None
    assert pooled.worst_accuracy.value == 0.8
    assert pooled.patients == (2,) * 30
    assert (pooled.tests_sha256, pooled.sites) == (local.tests_sha256, 3)
    assert local.models_right == (1,) * 20 + (2,) * 40
    few = {"c": tests["c"]}
    assert cells._test(cells._Trained(shared, 1.0), agreed, few).worst_accuracy is None


def test_a_result_is_bound_to_settings_and_xrays_and_to_no_place(tmp_path: Path) -> None:
    def scenario(data: str, *changes: str) -> Scenario:
        return read_scenario("iid", data=Path(data), changes=changes)

    here = _cell("fedavg", scenario("/here"))
    assert here.settings_sha256 == _cell("fedavg", scenario("/there")).settings_sha256
    key = scenario("/here", f"key_fingerprint={'0' * 64}")
    assert here.settings_sha256 == _cell("fedavg", key).settings_sha256
    assert here.settings_sha256 == _cell("fedavg", scenario("/here", "seed=2022")).settings_sha256
    assert here.settings_sha256 != _cell("fedavg", scenario("/here", "seed=1")).settings_sha256
    assert here.settings_sha256 != _cell("local", scenario("/here")).settings_sha256
    # nor is it one of what a method was before
    later = replace(here, method=replace(here.method, version=2))
    assert here.settings_sha256 != later.settings_sha256
    assert here.run != later.run

    write_phantoms(tmp_path / "a", counts={"Normal": 2, "Effusion": 2}, size=64, seed=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    digests = [data_digest(tmp_path / name, ("Normal", "Effusion")) for name in "ab"]
    assert digests[0] == digests[1]
    next((tmp_path / "b").rglob("*.png")).unlink()
    assert data_digest(tmp_path / "b", ("Normal", "Effusion")) != digests[0]


def test_cells_of_one_federation_share_its_run() -> None:
    runs = {
        method.key: _cell(
            method.key, read_scenario("iid", data=Path("/x"), changes=method.changes)
        ).run
        for method in METHODS
    }
    assert runs["fedavg"] == runs["personal"] == runs["pooled"] == runs["local"]
    assert len(set(runs.values())) == len(METHODS) - 3
    files = [
        Cell(method, read_scenario(name, data=Path("/x")), name, "").place(Path())
        for name in SCENARIOS
        for method in METHODS
    ]
    assert len(set(files)) == len(files)
    assert Path("dirichlet-0.1.fedavg.2022.json") in files


def test_personal_heads_of_a_cell_are_those_of_the_study(tmp_path: Path) -> None:
    training = {"rounds": 1, "personalise_epochs": 2}
    scenario = tiny_scenario("unsafe_plaintext", training=training)
    prepare_once(scenario, tmp_path / "whole")
    run_without_report(tmp_path / "whole")
    cell = _cell("personal", scenario)
    assert "personalise_epochs" not in cell.federation.study["training"]
    study = prepare(cell.federation, tmp_path / "run")
    models = cells._federated(cell, study, tmp_path / "run", _TALK).models
    assert set(models) == set(SITES)
    assert not (tmp_path / "run" / "report.html").exists()
    for name, model in models.items():
        kept = tmp_path / "whole" / "sites" / name / "work" / "personal.safetensors"
        found = get_parameters(model.network)
        assert parameters_sha256(found) == parameters_sha256(load_model(kept)[0])


def test_pooled_training_is_done_once_for_the_same_xrays(tmp_path: Path) -> None:
    table = _phantoms(tmp_path / "x", a={"Normal": 6, "Effusion": 6}, b={"Normal": 6})
    study = tiny_scenario(
        "unsafe_plaintext", training={"rounds": 1}, federation={"sites": ["one", "two"]}
    ).study
    told: list[str] = []

    def pooled(name: str, **partition: Any) -> str:
        simulation = {"data": str(table), "partition": partition}
        scenario = Scenario.model_validate({"study": study, "simulation": simulation})
        made = prepare(scenario, tmp_path / name)
        found = train_pooled(made, tmp_path / name, told.append, shared=tmp_path / "models")
        return parameters_sha256(get_parameters(found.model.network))

    first = pooled("even", kind="iid")
    assert len(told) == 1
    assert pooled("uneven", kind="iid", shares=[2, 1]) == first
    assert len(told) == 1
    study = study | {"seed": 1}
    assert pooled("other", kind="iid") != first
    assert len(told) == 2


def test_a_folder_with_a_result_is_not_removed(tmp_path: Path) -> None:
    result = tmp_path / "cell" / "cell.json"
    result.parent.mkdir()
    result.write_text("{}")
    with pytest.raises(RunError, match="holds results"):
        prepare_or_resume(tiny_scenario("unsafe_plaintext"), result.parent)
    assert result.exists()


def _result(method: str, right: str, **changes: Any) -> CellResult:
    """Of two sites that have one model."""
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
        name=_BY_KEY[method].name,
        scenario="iid",
        seed=2022,
        settings_sha256="0",
        data_sha256="0",
        figures=figures,
    )
    return result.model_copy(update=changes)


@pytest.mark.parametrize(("steps", "told"), [(0, "1 local epoch"), (2, "2 local steps")])
def test_a_row_says_epochs_or_steps(steps: int, told: str) -> None:
    result = _result("fedavg", "10")
    assert result.figures
    figures = result.figures.model_copy(update={"local_steps": steps})
    (row,) = method_rows([result.model_copy(update={"figures": figures})])
    assert row.training == f"64 px, 1 × {told}"


def test_findings_say_what_intervals_exclude_and_no_more() -> None:
    half = "10" * 20
    better, slightly = "1" * 38 + "00", "11" + half[2:]
    results = [
        _result("fedavg", half),
        _result("fedbn", better),
        _result("fedprox", slightly),
        _result("local", "0" * 40),
        _result("pooled", better),
    ]
    (sentence,) = method_findings(results, baselines=("local", "pooled"))
    assert sentence.startswith("iid: On all sites' tests better than FedAvg: FedBN (+45.0 [+")
    assert "all X-rays pooled (+45.0 [" in sentence
    assert "worse: each site alone (−50.0 [−" in sentence
    assert sentence.count("not told apart: FedProx") == 2
    assert sentence.endswith("This speaks for FedBN.")
    # at another seed it is the other way round
    results += [_result("fedavg", better, seed=1), _result("fedbn", half, seed=1)]
    (sentence,) = method_findings(results, baselines=("local", "pooled"))
    assert sentence.endswith("This speaks for no other federation than FedAvg's.")
    # other images cannot be paired, few patients tell nothing, and one line no difference
    other = results[1].figures
    assert other is not None
    other = other.model_copy(update={"tests_sha256": "1"})
    apart = [results[0], results[1].model_copy(update={"figures": other})]
    few = [_result("fedavg", "0" * 9), _result("fedbn", "1" * 9)]
    for some in (apart, few):
        (sentence,) = method_findings(some, baselines=())
        assert sentence.count("not told apart: FedBN") == 2
    assert method_findings(results[:1], baselines=()) == []
    assert method_findings(results[1:3], baselines=()) == []


def test_a_row_is_over_seeds() -> None:
    one, other = _result("fedavg", "1110"), _result("fedavg", "1100", seed=1)
    (row,) = method_rows([one])
    assert row.accuracy == "75.0 [75.0, 75.0]"
    assert (row.seeds, row.worst, row.megabytes) == ("2022", "75.0 [75.0, 75.0] (a)", "1.0")
    (row,) = method_rows([one, other])
    assert row.everywhere == "62.5 (50.0 to 75.0)"
    assert row.seeds == "2022, 1"
    failed = one.model_copy(update={"seed": 3, "figures": None, "failure": "no."})
    (row,) = method_rows([one, failed])
    assert row.accuracy == "75.0 [75.0, 75.0]"
    assert row.failures == ("seed 3: no.",)
    (row,) = method_rows([failed])
    assert row.accuracy == row.minutes == row.sites == "–"


@pytest.mark.usefixtures("_few")
def test_several_seeds_are_several_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(cell: Cell, *, results: Path, **_: Any) -> CellResult:
        digests = {"settings_sha256": cell.settings_sha256, "data_sha256": cell.data_sha256}
        result = _result("fedavg", "10", scenario=cell.name, seed=cell.seed, **digests)
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
        ([], "either --quick or --data"),
    ):
        result = CliRunner().invoke(_app, ["compare-methods", *arguments, "--out", str(tmp_path)])
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)
