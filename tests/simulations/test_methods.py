"""Whole studies under other methods than plain averaging: encrypted, cut off, with absent sites."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sites.hospital
from ppfl.errors import DataError, StudyMismatchError
from ppfl.federation import read_journal
from ppfl.federation.journal import (
    Alarm,
    MetricsReleased,
    RoundClosed,
    SiteFailed,
    StudyClosed,
    StudyStarted,
)
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.study_model import StudyModel
from ppfl.settings import SiteFile, Study
from simulations.scenario import Scenario
from sites.hospital import Hospital
from sites.requests import Answer, Parameters, Request
from sites.totals import Totals
from sites.vectors import shapes_of, update_plan
from sites.xrays import XRays
from tests.simulations.tiny import SITES, prepare_once, run_without_report, tiny_scenario

_PLAIN = "unsafe_plaintext"
_METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "adaptive": {
        "model": {"batch_norm": "group"},
        "training": {"server_optimiser": "fedadam", "proximal_mu": 0.1, "personalise_epochs": 2},
    },
    "scaffold": {
        "model": {"train_from": "stage4", "local_layers": ["fc"]},
        "training": {"optimiser": "scaffold", "learning_rate": 0.02, "frozen_statistics": 0.5},
    },
}


def _scenario(method: str, custody: str = _PLAIN) -> Scenario:
    return tiny_scenario(custody, **_METHODS[method])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@cache
def _run(root: Path, method: str) -> Path:
    """A run of two rounds that nothing disturbed."""
    prepare_once(_scenario(method), root / method)
    run_without_report(root / method)
    return root / method


def _kept(folder: Path, name: str = "model.safetensors") -> dict[str, Parameters]:
    """What each site has in a file at the end."""
    return {site: load_model(folder / "sites" / site / "work" / name)[0] for site in SITES}


def _digests(folder: Path) -> dict[str, str]:
    return {site: parameters_sha256(model) for site, model in _kept(folder).items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", _METHODS)
def test_encryption_changes_no_bit(root: Path, tmp_path: Path, method: str) -> None:
    prepare_once(_scenario(method, "shared"), tmp_path / "run")
    run_without_report(tmp_path / "run")
    assert _digests(tmp_path / "run") == _digests(_run(root, method))


class _PowerCut(BaseException):
    """Nothing at a site or in Flower catches it: the process ends here."""


@pytest.mark.parametrize("method", _METHODS)
def test_a_round_that_was_cut_off_is_done_again_to_the_same_models(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder = tmp_path / "run"
    prepare_once(_scenario(method), folder)
    train, trained = sites.hospital.train_locally, []

    def train_until_the_sixth(*arguments: Any, **options: Any) -> Any:
        trained.append(1)
        if len(trained) == 6:  # in round 2; two sites have kept what they need for round 3
            raise _PowerCut
        return train(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sites.hospital, "train_locally", train_until_the_sixth)
        with pytest.raises(_PowerCut):
            run_without_report(folder)
    run_without_report(folder)
    events = read_journal(folder / "journal.jsonl")
    assert [e.resumed_after for e in events if isinstance(e, StudyStarted)] == [0, 1]
    assert _digests(folder) == _digests(_run(root, method))


def test_what_is_not_trained_is_not_sealed_and_control_variates_are(root: Path) -> None:
    folder = _run(root, "scaffold")
    start, _ = load_model(folder / "start.safetensors")
    names = list(start)
    first = next(index for index, name in enumerate(names) if name.startswith("stage4."))
    shared = [name for name in names[first:] if not name.startswith("fc.")]
    for name, array in start.items():
        east, north, west = (model[name] for model in _kept(folder).values())
        assert np.array_equal(east, array) is (name in names[:first])
        assert np.array_equal(east, north) is not name.startswith("fc.")
        assert np.array_equal(east, west) is not name.startswith("fc.")
    study = Study.read(folder / "study.toml")
    plain = study.model_copy(
        update={"training": study.training.model_copy(update={"optimiser": "sgd"})}
    )
    shapes = shapes_of({name: start[name] for name in shared})
    moved = {name: shape for name, shape in shapes.items() if "running" not in name}
    values = [update_plan(plain, shapes).values, update_plan(plain, moved).values]
    counts = update_plan(plain, {}).values  # of the tail, which is there once
    started = read_journal(folder / "journal.jsonl")[0]
    assert isinstance(started, StudyStarted)
    bound = 2 * 5  # limbs of the weight and of the ranges' digest
    assert started.values == sum(values) - counts - bound
    own = _kept(folder, "local-2.safetensors")["east"]
    assert set(own) == {"fc.weight", "fc.bias", *(f"control.{name}" for name in moved)}
    assert any(np.abs(array).max() > 0 for name, array in own.items() if name != "fc.bias")


def test_a_personal_model_differs_in_the_last_layer_and_is_told_in_the_sum(root: Path) -> None:
    folder = _run(root, "adaptive")
    study = Study.read(folder / "study.toml")
    counts = EvaluationCounts.empty(len(study.classes))
    for site, model in _kept(folder).items():
        personal = _kept(folder, "personal.safetensors")[site]
        changed = {name for name in model if not np.array_equal(model[name], personal[name])}
        assert changed == {"fc.weight", "fc.bias"}
        settings = SiteFile.read(folder / "sites" / site / "site.toml")
        own = StudyModel.read(settings.work / "personal.safetensors")
        counts += own.evaluate(XRays(settings, study).images("test"))
    events = read_journal(folder / "journal.jsonl")
    told = {e.split: e.metrics for e in events if isinstance(e, MetricsReleased) and e.round == 2}
    assert set(told) == {"validation", "test", "personal"}
    metrics = compute_metrics(counts, study.classes).to_dict()
    assert told["personal"]["confusion"] == json.loads(json.dumps(metrics["confusion"]))
    assert told["personal"]["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    assert told["personal"]["loss"] != told["test"]["loss"]
    assert len(set(_digests(folder).values())) == 1


def test_a_site_that_was_away_or_lost_its_state_comes_into_step_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    prepare_once(
        tiny_scenario(_PLAIN, training={"rounds": 4, "server_optimiser": "fedyogi"}), folder
    )
    train = Hospital.train

    def train_unless_away(hospital: Hospital, request: Request) -> Answer:
        match hospital.site.name, request.round_number:
            case "north", 2:
                raise DataError("away")
            case "west", 3:
                for path in hospital.site.work.glob("server-*.safetensors"):
                    path.unlink()
        return train(hospital, request)

    monkeypatch.setattr(Hospital, "train", train_unless_away)
    # the app has it from the class at each message
    run_without_report(folder)
    events = read_journal(folder / "journal.jsonl")
    failed = [(e.round, e.site, e.code) for e in events if isinstance(e, SiteFailed)]
    assert failed == [(2, "north", "data"), (3, "west", "behind")]
    inside = [sorted(e.sites) for e in events if isinstance(e, RoundClosed)]
    assert inside == [list(SITES), ["east", "west"], ["east", "north"], list(SITES)]
    assert isinstance(events[-1], StudyClosed)
    assert not any(isinstance(event, Alarm) for event in events)
    states = {parameters_sha256(model) for model in _kept(folder, "server-4.safetensors").values()}
    assert len(set(_digests(folder).values())) == len(states) == 1


def test_a_study_without_a_server_optimiser_has_nothing_to_catch_up(root: Path) -> None:
    folder = _run(root, "scaffold")
    site = SiteFile.read(folder / "sites" / "east" / "site.toml")
    study = Study.read(site.study)
    with pytest.raises(StudyMismatchError, match="nothing to catch up"):
        Totals(site, study).catch_up(Request(study.fingerprint(), "ab", 1))
