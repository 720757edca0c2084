"""What a run's model came to, with intervals, from what the sites released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppfl.errors import MalformedMessageError
from ppfl.learning.intervals import Interval, share_interval
from ppfl.learning.released_counts import ReleasedCounts, Roc, roc
from ppfl.report.summary import Summary

REDRAW_SEED = 2022
"""From which histograms are redrawn, so that a report made again is the same."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class against the rest; None where it was not released, or no image can tell."""

    name: str
    images: int
    auroc: float | None
    sensitivity: Interval | None
    specificity: Interval | None
    roc: Roc | None


@dataclass(frozen=True, slots=True)
class Results:
    """The final model on held-back images: those of the test split, where there is one.

    ``confusion`` is by true, then by predicted class; it, ``classes``, ``counts`` and ``accuracy``
    are empty where nothing was released by class.
    """

    split: str
    metrics: Mapping[str, Any]
    accuracy: Interval | None
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    counts: ReleasedCounts | None


def final_results(summary: Summary) -> Results | None:
    """The results of a run; None where no metrics were released yet.

    Raises:
        MalformedMessageError: what the sites released is not what it must be.
    """
    split, metrics = ("test", summary.test) if summary.test else ("validation", summary.validation)
    if not metrics:
        return None
    told = summary.counts.get(split)
    counts = ReleasedCounts.from_dict(told) if told else None
    confusion = tuple(tuple(row) for row in metrics["confusion"])
    told_of = metrics["classes"]
    # the study's order, which the matrix has; the journal's objects are sorted by name
    names = [n for n in summary.started.classes if n in told_of] if summary.started else []
    sizes = {len(told_of), len(names), len(confusion), *map(len, confusion)}
    if counts is not None:
        sizes.add(len(counts.confusion))
    if metrics["accuracy"] is None or len(sizes) != 1:
        raise MalformedMessageError(f"the {split} metrics are not those of a model")
    classes = tuple(
        _of_class(name, place, told_of[name], confusion, counts) for place, name in enumerate(names)
    )
    hits = sum(row[place] for place, row in enumerate(confusion))
    whole = sum(map(sum, confusion))
    accuracy = share_interval(hits, whole) if whole else None
    return Results(split, metrics, accuracy, classes, confusion, counts)


_SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auroc": "mean AUROC of the classes",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "loss": "mean cross-entropy, nats",
}


def personal_rows(summary: Summary) -> list[tuple[str, float | None, float | None]]:
    """Of each figure its name, and what the study's model and the personal models come to."""
    if not summary.personal:
        return []
    common, own = summary.test, summary.personal
    rows = [(title, common.get(name), own[name]) for name, title in _SHOWN.items()]
    classes, own_classes = common.get("classes", {}), own["classes"]
    for name in summary.started.classes if summary.started else ():
        if name in own_classes:
            auroc = classes.get(name, {}).get("auroc")
            rows.append((f"AUROC of {name}", auroc, own_classes[name]["auroc"]))
    return rows


def _of_class(
    name: str,
    place: int,
    figures: Mapping[str, Any],
    confusion: tuple[tuple[int, ...], ...],
    counts: ReleasedCounts | None,
) -> ClassResult:
    own = sum(confusion[place])
    others = sum(map(sum, confusion)) - own
    hits = confusion[place][place]
    wrong = sum(row[place] for row in confusion) - hits
    auroc = figures["auroc"]
    drawn = counts is not None and auroc is not None
    return ClassResult(
        name=name,
        images=own,
        auroc=auroc,
        sensitivity=share_interval(hits, own) if own else None,
        specificity=share_interval(others - wrong, others) if others else None,
        roc=roc(counts.scores[place], auroc=auroc, seed=REDRAW_SEED) if drawn and counts else None,
    )
