"""Which ways to train a study may name together."""

from __future__ import annotations

from typing import Any

import pytest

from ppfl.errors import SettingsError
from ppfl.settings import Study, check_settings


def _study(model: dict[str, Any], training: dict[str, Any]) -> Study:
    table = {
        "name": "a",
        "classes": ["x", "y"],
        "model": model,
        "training": {"rounds": 10} | training,
        "federation": {"sites": ["east", "west"]},
    }
    return check_settings(table, Study, where="study")


@pytest.mark.parametrize(
    ("model", "training", "told"),
    [
        ({}, {"momentum": 0.9}, "momentum is one of sgd, not of adamw"),
        ({}, {"momentum": 0.9, "optimiser": "scaffold"}, "momentum is one of sgd, not of scaffold"),
        ({}, {"optimiser": "scaffold", "proximal_mu": 0.1}, "choose one"),
        ({}, {"optimiser": "scaffold", "server_optimiser": "fedadam"}, "fedadam does not"),
        ({}, {"server_learning_rate": 0.5}, "average has no rate"),
        ({}, {"local_steps": 3, "local_epochs": 2}, "choose one"),
        ({"batch_norm": "group"}, {"frozen_statistics": 0.5}, "no running statistics"),
        ({"batch_norm": "local"}, {"frozen_statistics": 0.5}, "no statistics of its own"),
        ({}, {"frozen_statistics": 0.99}, "the start is random"),
    ],
)
def test_methods_that_exclude_each_other_are_refused(
    model: dict[str, Any], training: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        _study(model, training)
    first = str(caught.value).removeprefix("study: ")
    assert first[0].islower()  # neither pydantic's words nor the same name twice
    assert not first.startswith("study")


def test_those_that_fit_together_are_not() -> None:
    sgd = {"optimiser": "sgd", "momentum": 0.9, "proximal_mu": 0.1, "server_optimiser": "fedyogi"}
    study = _study({"batch_norm": "local"}, sgd | {"server_learning_rate": 0.1})
    assert study.keeps_at_site
    assert _study({}, {"optimiser": "scaffold"}).keeps_at_site
    assert not _study({}, sgd).keeps_at_site


@pytest.mark.parametrize(
    ("share", "rounds", "frozen"), [(0, 10, 0), (0.3, 10, 3), (0.1, 30, 3), (0.01, 10, 1)]
)
def test_a_share_of_the_rounds_is_whole_rounds(share: float, rounds: int, frozen: int) -> None:
    study = _study({}, {"frozen_statistics": share, "rounds": rounds})
    assert study.training.frozen_rounds == frozen


def test_a_setting_that_came_later_leaves_older_fingerprints_as_they_were() -> None:
    tables = {"name": "a", "classes": ["x", "y"], "federation": {"sites": ["east", "west"]}}
    study = Study.model_validate(tables)
    # of the version before `logit_adjustment`
    before = "9c36b9f51be6d4fe083d8ab502259b47eba1e7808eb14b772e647c9326ddb7fb"
    assert study.fingerprint() == before
    other = Study.model_validate(tables | {"training": {"logit_adjustment": 1}})
    assert other.fingerprint() != before
