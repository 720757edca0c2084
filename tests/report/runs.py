"""Runs' folders whose journals hold what sites release of made-up predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppfl.federation import Journal
from ppfl.federation.journal import Event, ImagesReleased, MetricsReleased, StudyClosed
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.released_counts import ReleasedCounts
from ppfl.settings import Study
from tests.coordinator.dashboard.studies import CLASSES, SITES, answered, closed, started

FLOOR = 20
STUDY = Study.model_validate(
    {
        "name": "thorax",
        "classes": CLASSES,
        "training": {"rounds": 4},
        "federation": {"sites": SITES, "release_floor": FLOOR},
    }
)


def predictions(
    images: int, *, skill: float = 3.0, seed: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities (n, 3) and labels (n,) of a model that is somewhat sure of itself."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), images)
    logits = rng.normal(size=(images, len(CLASSES))) + skill * np.eye(len(CLASSES))[labels]
    odds = np.exp(1.5 * logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels


def evaluated(images: int, **options: Any) -> EvaluationCounts:
    return EvaluationCounts.from_predictions(*predictions(images, **options))


def released(number: int, split: str, found: EvaluationCounts, **more: Any) -> MetricsReleased:
    # sorted, as sites send them, so that equal metrics are equal texts
    metrics = json.loads(json.dumps(compute_metrics(found, CLASSES).to_dict(), sort_keys=True))
    return MetricsReleased.model_validate(
        {"round": number, "split": split, "sites": SITES, "metrics": metrics} | more
    )


def events(*, rounds: int = 4, with_counts: bool = True) -> Iterator[Event]:
    """A study from its first event to its last."""
    yield started(rounds=rounds, study_fingerprint=STUDY.fingerprint())
    for number in range(1, rounds + 1):
        for site in SITES:
            yield answered(number, site)
        yield closed(number)
        yield released(
            number, "validation", evaluated(300, skill=0.8 * min(number, 9), seed=number)
        )
    found = evaluated(600)
    told = ReleasedCounts.of(found, floor=FLOOR).to_dict() if with_counts else {}
    yield released(rounds, "test", found, counts=told)
    if with_counts:
        yield ImagesReleased(sites=SITES, images=dict(zip(CLASSES, (1200, 1500), strict=False)))
    yield StudyClosed(rounds=rounds, sites=SITES, model_sha256="ab" * 32, seconds=312.0)


def write_run(folder: Path, happened: Sequence[Event]) -> Path:
    """A run's folder with a study file and a journal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(STUDY.to_toml(), encoding="utf-8")
    journal = Journal(folder / "journal.jsonl")
    for event in happened:
        journal.write(event)
    return folder
