"""How a study trains, as its report tells it: a test for each method of docs/methods.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.report import write_report
from ppfl.report.training import training_sentences
from ppfl.settings import Study
from tests.coordinator.dashboard.studies import started
from tests.report.runs import STUDY, evaluated, events, released, write_run

_AVERAGE = "After each round the model is the average"


def _told(**tables: Any) -> str:
    changes = {"training": {"rounds": 10}} | tables
    return " ".join(training_sentences(Study.model_validate(STUDY.model_dump() | changes)))


def test_the_default_is_federated_averaging_with_adamw() -> None:
    told = _told()
    assert "mobilenet_v2, from random weights; X-rays of 128 × 128 pixels." in told
    assert "10 rounds of 1 local epoch, batches of 32, learning rate 0.001" in told
    assert "classes weighted against imbalance, with augmentation" in told
    assert "AdamW" in told
    assert f"{_AVERAGE} of the sites' models, weighted by" in told
    for name in ("FedProx", "step of", "never sent", "personal", "statistics", "stay as they"):
        assert name not in told


@pytest.mark.parametrize(
    ("tables", "said", "unsaid"),
    [
        ({"training": {"optimiser": "sgd", "momentum": 0.9}}, "SGD, momentum 0.9", "AdamW"),
        ({"training": {"optimiser": "scaffold"}}, "SCAFFOLD", "AdamW"),
        ({"training": {"proximal_mu": 0.01}}, "(FedProx, μ = 0.01)", "SCAFFOLD"),
        ({"training": {"logit_adjustment": 1}}, "(logit adjustment, τ = 1)", "FedProx"),
        (
            {"training": {"server_optimiser": "fedavgm"}},
            "step of FedAvgM (rate 1, momentum 0.9) towards the average",
            _AVERAGE,
        ),
        (
            {"training": {"server_optimiser": "fedadam", "server_learning_rate": 0.1}},
            "step of FedAdam (rate 0.1, momentum 0.9, β₂ 0.99, τ 0.001) towards",
            _AVERAGE,
        ),
        ({"training": {"server_optimiser": "fedyogi"}}, "step of FedYogi (rate 0.01,", _AVERAGE),
        ({"model": {"batch_norm": "local"}}, "never sent: batch norm with its statis", "layers"),
        (
            {"model": {"batch_norm": "local", "local_layers": ["features.0", "classifier"]}},
            "(FedBN) and the layers features.0, classifier. So each site ends with a model of its",
            "Group norm",
        ),
        ({"model": {"batch_norm": "group"}}, "Group norm takes batch norm's place", "FedBN"),
        (
            {"training": {"rounds": 10, "frozen_statistics": 0.3}},
            "In the last 3 rounds batch norm's running statistics stay as they are",
            "never sent",
        ),
        (
            {"model": {"train_from": "features.14", "start": "imagenet"}},
            "All layers before features.14 stay as they start: they are neither",
            "random weights",
        ),
        ({"training": {"personalise_epochs": 3}}, "the last layer for 3 epochs on its", "FedBN"),
        ({"images": {"cipher": "unsafe_low_byte"}}, "does not see the pixels", "FedBN"),
    ],
)
def test_each_method_is_told(tables: dict[str, Any], said: str, unsaid: str) -> None:
    told = _told(**tables)
    assert said in told
    assert unsaid not in told


def test_personal_models_stand_beside_the_studys(tmp_path: Path) -> None:
    study = Study.model_validate(
        STUDY.model_dump() | {"training": {"rounds": 4, "personalise_epochs": 3}}
    )
    begun = started(study_fingerprint=study.fingerprint())
    happened = [begun, *list(events())[1:-1]]
    personal = released(4, "personal", evaluated(600, skill=5.0, seed=3))
    write_run(tmp_path, [*happened, personal])
    (tmp_path / "study.toml").write_text(study.to_toml())
    page = write_report(tmp_path).read_text()
    assert "for a personal model beside the study" in page
    metrics = happened[-2].metrics, personal.metrics  # type: ignore[attr-defined]
    common, own = (f"{one['accuracy']:.3f}" for one in metrics)
    assert common != own
    assert f'<th scope="row">accuracy<td>{common}<td>{own}</tr>' in page
    covid = [f"{one['classes']['COVID']['auroc']:.3f}" for one in metrics]
    assert f'<th scope="row">AUROC of COVID<td>{covid[0]}<td>{covid[1]}</tr>' in page
