"""One method in one scenario: what its result is bound to, what is measured, what is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from ppfl.errors import (
    DataError,
    ModelError,
    RunError,
)
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.settings import Study
from ppfl.xray import write_phantoms
from simulations.comparison.baselines import train_pooled
from simulations.methods import cells, command
from simulations.methods.cells import Cell, data_digest, run_cell
from simulations.methods.methods import METHODS, SCENARIOS
from simulations.outcome import prepare_or_resume
from simulations.prepare import prepare
from simulations.scenario import Scenario, read_scenario
from tests.simulations.tiny import (
    SITES,
    cell_result,
    phantom_table,
    prepare_once,
    run_without_report,
    tiny_scenario,
)

_BY_KEY = {method.key: method for method in METHODS}
_TALK = Console(stderr=True)


def _natural(table: Path) -> Scenario:
    return read_scenario("natural", data=table, changes=['classes=["Normal", "Effusion"]'])


def _cell(method: str, scenario: Scenario, data: str = "") -> Cell:
    return Cell(_BY_KEY[method], scenario, "s", data)


def test_what_is_kept_of_a_failure_names_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = phantom_table(tmp_path / "x", a={"Normal": 6, "Effusion": 6}, b={"Normal": 6})

    def prepare(_: object, folder: Path, **__: object) -> None:
        raise DataError(f"{folder}/sites: a has no image; {table.parent}/a is empty")

    monkeypatch.setattr(cells, "prepare_or_resume", prepare)
    cell = Cell(_BY_KEY["pooled"], _natural(table), "s", "")
    talk, out = Console(stderr=True), tmp_path / "out"
    failure = run_cell(cell, out=out, results=tmp_path / "results", talk=talk).failure
    assert str(tmp_path) not in failure
    assert failure.endswith("a has no image; a is empty")


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


def test_a_study_without_tests_is_a_failure_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = tiny_scenario("unsafe_plaintext", images={"test": 0.0})
    monkeypatch.setattr(cells, "run_to_end", lambda *_, **__: pytest.fail("trained"))
    cell = _cell("fedavg", scenario)
    result = run_cell(cell, out=tmp_path, results=tmp_path / "results", talk=_TALK)
    assert result.failure == "no site holds an X-ray to test on"


def test_a_result_is_bound_to_the_weights_that_it_began_with(tmp_path: Path) -> None:
    table = phantom_table(tmp_path / "x", a={"Normal": 6, "Effusion": 6}, b={"Normal": 6})
    changes = ['classes=["Normal", "Effusion"]', "start=imagenet"]

    def cell(*more: str) -> Cell:
        made = command._Table(table, [*changes, *more], [None], ["natural"])
        (found,) = made.cells(["natural"], [_BY_KEY["fedavg"]])
        return found

    assert cell().weights_sha256 == ""  # torchvision's
    beside = table.parent / "weights" / "mobilenet_v2.npz"
    beside.parent.mkdir()
    beside.write_bytes(b"some")
    some = cell()
    digests = {"settings_sha256": some.settings_sha256, "data_sha256": some.data_sha256}
    result = cell_result("fedavg", "10", **digests)
    assert some.fits(result)  # of an earlier version
    result = result.model_copy(update={"weights_sha256": some.weights_sha256})
    assert some.fits(result)
    beside.write_bytes(b"others")
    assert not cell().fits(result)
    assert cell().run != some.run
    assert cell("start=seed").weights_sha256 == ""
    with pytest.raises(ModelError, match="No such file"):
        cell("weights=/none.npz")


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
    table = phantom_table(tmp_path / "x", a={"Normal": 6, "Effusion": 6}, b={"Normal": 6})
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
