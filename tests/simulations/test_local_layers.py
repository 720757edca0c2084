"""Studies in which some layers never leave their site: who holds what, after crashes as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sites.hospital
from coordinator.rounds import Coordinator
from ppfl.errors import MalformedMessageError, ModelError
from ppfl.federation import read_journal
from ppfl.federation.journal import RoundClosed, SiteFailed, StudyClosed, StudyStarted
from ppfl.learning.files import load_model, parameters_sha256, save_model
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.models import build_model, get_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.report import summarise
from ppfl.settings import SiteFile, Study
from simulations.local_grid import LocalGrid
from simulations.main import _app
from simulations.prepare import prepare
from simulations.runner import run_in_process
from simulations.scenario import Scenario
from sites.client_app import app
from sites.hospital import Hospital
from sites.requests import Parameters, Request
from sites.totals import Totals
from sites.vectors import update_plan
from sites.xrays import XRays
from tests.simulations.tiny import SITES, prepare_once, run_without_report, tiny_scenario

_PLAIN = "unsafe_plaintext"
_NETWORK = "shufflenet_v2_x0_5"
_LOCAL = ("conv1.", "stage2.0.", "fc.")


def _scenario(custody: str = _PLAIN) -> Scenario:
    layers = [layer.removesuffix(".") for layer in _LOCAL]
    return tiny_scenario(custody, model={"local_layers": layers})


def _models(folder: Path) -> dict[str, Parameters]:
    """What each site holds at the end."""
    return {
        name: load_model(folder / "sites" / name / "work" / "model.safetensors")[0]
        for name in SITES
    }


def _digests(folder: Path) -> dict[str, str]:
    return {name: parameters_sha256(model) for name, model in _models(folder).items()}


def _is_local(name: str) -> bool:
    return name.startswith(_LOCAL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    prepare_once(_scenario(), folder)
    run_in_process(folder)
    return folder


def test_sites_differ_in_local_layers_alone(whole: Path) -> None:
    start, _ = load_model(whole / "start.safetensors")
    east, north, west = _models(whole).values()
    assert list(east) == list(start)
    for name, array in start.items():
        others = [model[name] for model in (north, west)]
        assert all(np.array_equal(east[name], other) is not _is_local(name) for other in others)
        assert not np.array_equal(east[name], array)
    events = read_journal(whole / "journal.jsonl")
    closed = events[-1]
    assert isinstance(closed, StudyClosed)
    shared = {name: array for name, array in east.items() if not _is_local(name)}
    assert closed.model_sha256 == parameters_sha256(shared)


def test_an_update_has_room_for_the_shared_layers_alone(whole: Path) -> None:
    start, _ = load_model(whole / "start.safetensors")
    shapes = {name: array.shape for name, array in start.items() if not _is_local(name)}
    study = Study.read(whole / "study.toml")
    started = read_journal(whole / "journal.jsonl")[0]
    assert isinstance(started, StudyStarted)
    assert started.values == update_plan(study, shapes).values


def test_the_federations_metrics_are_sums_over_each_sites_own_model(whole: Path) -> None:
    study = Study.read(whole / "study.toml")
    counts = EvaluationCounts.empty(len(study.classes))
    for name in SITES:
        site = SiteFile.read(whole / "sites" / name / "site.toml")
        own = StudyModel.read(site.work / "model.safetensors")
        counts += own.evaluate(XRays(site, study).images("test"))
    told = summarise(read_journal(whole / "journal.jsonl")).test
    own_metrics = compute_metrics(counts, study.classes).to_dict()
    assert told["confusion"] == json.loads(json.dumps(own_metrics["confusion"]))
    assert told["loss"] == pytest.approx(own_metrics["loss"], abs=1e-6)


def test_the_model_of_a_site_evaluates_and_predicts(whole: Path) -> None:
    place = whole / "sites" / "north"
    picture = next((place / "xrays").rglob("*.png"))
    model = ("--model", str(place / "work" / "model.safetensors"))
    for command in (("evaluate", *model, "--data", str(place / "xrays")), ("predict", *model)):
        files = [str(picture)] if command[0] == "predict" else []
        told = CliRunner().invoke(_app, [*command, *files, "--json"], catch_exceptions=False)
        assert json.loads(told.stdout)


@pytest.mark.slow
def test_encryption_changes_no_bit_of_any_sites_model(whole: Path, tmp_path: Path) -> None:
    prepare_once(_scenario("shared"), tmp_path / "run")
    run_without_report(tmp_path / "run")
    assert _digests(tmp_path / "run") == _digests(whole)


def test_with_batch_norm_local_as_well_both_stay(tmp_path: Path) -> None:
    model = {"local_layers": ["conv1.0"], "batch_norm": "local"}
    prepare(tiny_scenario(_PLAIN, model=model, training={"rounds": 1}), tmp_path / "run")
    run_without_report(tmp_path / "run")
    east, north, _ = _models(tmp_path / "run").values()
    norms = {name.rpartition(".")[0] for name in east if name.endswith("running_var")}
    for name in east:
        local = name == "conv1.0.weight" or name.rpartition(".")[0] in norms
        assert np.array_equal(east[name], north[name]) is not local


class _PowerCut(BaseException):
    """Nothing at a site or in Flower catches it: the process ends here."""


def test_a_round_that_was_cut_off_is_done_again_to_the_same_models(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    prepare_once(_scenario(), folder)
    train, trained = sites.hospital.train_locally, []

    def train_until_the_sixth(*arguments: Any, **options: Any) -> Any:
        trained.append(1)
        if len(trained) == 6:  # in round 2; two sites have kept their layers of it
            raise _PowerCut
        return train(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sites.hospital, "train_locally", train_until_the_sixth)
        with pytest.raises(_PowerCut):
            run_without_report(folder)
    assert (folder / "sites" / "east" / "work" / "local-2.safetensors").exists()
    run_without_report(folder)
    events = read_journal(folder / "journal.jsonl")
    assert [e.resumed_after for e in events if isinstance(e, StudyStarted)] == [0, 1]
    assert _digests(folder) == _digests(whole)


class LateGrid(LocalGrid):
    """A grid on which the last node, the site west, appears after the first round."""

    def __init__(self, journal: Path) -> None:
        super().__init__(app, sites=len(SITES))
        self._journal = journal

    def get_node_ids(self) -> Iterable[int]:
        closed = self._journal.exists() and any(
            isinstance(event, RoundClosed) for event in read_journal(self._journal)
        )
        return list(super().get_node_ids())[: None if closed else -1]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Parameters]:
    """The models that training began with, site after site and round after round."""
    train, models = sites.hospital.train_locally, []

    def watch(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        models.append(get_parameters(model))
        return train(model, *arguments, **options)

    monkeypatch.setattr(sites.hospital, "train_locally", watch)
    return models


def test_a_late_site_begins_at_the_start_whatever_an_earlier_run_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[Parameters]
) -> None:
    folder = tmp_path / "run"
    weights = tmp_path / "weights.pth"  # so that the start is not what the seed gives
    torch.save(build_model(_NETWORK, classes=5, seed=9).state_dict(), weights)
    scenario = tiny_scenario(_PLAIN, model={"start": "imagenet", "local_layers": ["conv1"]})
    changed = scenario.simulation.model_copy(update={"weights": str(weights)})
    prepare(scenario.model_copy(update={"simulation": changed}), folder)
    run_without_report(folder)
    for name in ("checkpoint.bin", "journal.jsonl"):
        (folder / name).unlink()
    begun.clear()
    monkeypatch.setenv("PPFL_RUN", str(folder))
    Coordinator(LateGrid(folder / "journal.jsonl"), folder, connect_s=0).run()
    start, _ = load_model(folder / "start.safetensors")
    east, _, west = begun[2:]  # of round 2
    for name in start:
        if name.startswith("conv1."):
            assert np.array_equal(west[name], start[name])
            assert not np.array_equal(east[name], start[name])
        else:
            assert np.array_equal(west[name], east[name])


def test_a_round_that_failed_at_a_site_leaves_no_trace_in_its_local_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[Parameters]
) -> None:
    folder = tmp_path / "run"
    prepare_once(_scenario(), folder)
    train = sites.hospital.train_locally

    def train_badly(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = train(model, *arguments, **options)
        if len(begun) == 2:  # the second site, north; its shared parameters stay finite
            model.get_parameter("conv1.0.weight").data.fill_(np.nan)
        return result

    monkeypatch.setattr(sites.hospital, "train_locally", train_badly)
    run_without_report(folder)
    events = read_journal(folder / "journal.jsonl")
    failed = [(e.round, e.site, e.code) for e in events if isinstance(e, SiteFailed)]
    assert failed == [(1, "north", "not-finite")]
    assert np.array_equal(begun[4]["conv1.0.weight"], begun[1]["conv1.0.weight"])


def test_a_layer_that_the_network_has_not_ends_the_study_before_it_begins(tmp_path: Path) -> None:
    scenario = tiny_scenario(_PLAIN, model={"local_layers": ["stage5"]})
    with pytest.raises(ModelError, match=f"{_NETWORK} has no layer 'stage5'") as told:
        prepare(scenario, tmp_path / "run")
    assert "stage4" in told.value.hint
    assert not (tmp_path / "run" / "study.toml").exists()


def test_a_start_that_is_not_the_studys_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    study = prepare_once(_scenario(), folder)
    site = SiteFile.read(folder / "sites" / "east" / "site.toml")
    start, _ = load_model(folder / "start.safetensors")
    changed = start | {"fc.bias": start["fc.bias"] + 1}
    enrolling = Request(study.fingerprint(), "ab", 0, start=changed)
    with pytest.raises(MalformedMessageError, match="not those whose digest the study names"):
        Hospital(site).enroll(enrolling)
    save_model(site.work / "start.safetensors", changed, metadata={})  # of an earlier study
    with pytest.raises(MalformedMessageError, match="not those whose digest the study names"):
        Totals(site, study).model(Request(study.fingerprint(), "ab", 1))


def test_a_site_refuses_such_a_study_when_it_enrols(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_once(_scenario(), folder)
    for path in (folder / "study.toml", *folder.glob("sites/*/study.toml")):
        path.write_text(path.read_text().replace('"stage2.0"', '"stage2.9"'))
    with pytest.raises(ModelError, match=r"no layer 'stage2\.9'"):
        run_without_report(folder)  # the coordinator's own check
    site = SiteFile.read(folder / "sites" / "east" / "site.toml")
    start, _ = load_model(folder / "start.safetensors")
    request = Request(Study.read(site.study).fingerprint(), "ab", 0, start=start)
    with pytest.raises(ModelError, match=r"no layer 'stage2\.9'"):
        Hospital(site).enroll(request)
    assert not (site.work / "cache").exists()


def test_a_site_that_lost_its_folder_is_sent_the_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = _scenario()
    training = scenario.study["training"] | {"rounds": 3}
    scenario = scenario.model_copy(update={"study": scenario.study | {"training": training}})
    prepare_once(scenario, tmp_path / "run")
    play, work = Coordinator._round, tmp_path / "run" / "sites" / "north" / "work"

    def lose(coordinator: Coordinator, number: int) -> None:
        if number == 2:
            shutil.rmtree(work)
        play(coordinator, number)

    monkeypatch.setattr(Coordinator, "_round", lose)
    run_without_report(tmp_path / "run")
    events = list(read_journal(tmp_path / "run" / "journal.jsonl"))
    failed = [(e.round, e.site, e.code) for e in events if isinstance(e, SiteFailed)]
    assert failed == [(2, "north", ModelError.code)]
    closed = {event.round: set(event.sites) for event in events if isinstance(event, RoundClosed)}
    assert closed == {1: set(SITES), 2: {"east", "west"}, 3: set(SITES)}
