"""What a row came to, kept in its folder, and rows compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ppfl.errors import RunError
from ppfl.files import replace_private
from ppfl.learning.intervals import accuracy_interval, difference_interval
from ppfl.learning.sources import ImageRecord
from ppfl.report import Estimate, RowResult
from simulations.outcome import Outcome, Predictions, join_predictions, site_files
from simulations.reproduction.leaks import measure_leaks
from simulations.reproduction.rows import Row

_ROW = "row.json"
_PREDICTIONS = "predictions.npz"
_SEED = 2022


def finish_row(row: Row, outcome: Outcome, folder: Path, public: Sequence[ImageRecord]) -> None:
    """Measure what a trained row leaks, and keep all that is to be shown of it.

    Raises:
        PpflError: the site's data cannot be read.
    """
    study, told = outcome.study, outcome.summary
    predictions = join_predictions(outcome.predictions.values())
    leaks = measure_leaks(study, site_files(study, folder), public)
    right = accuracy_interval(predictions.correct, predictions.groups, seed=_SEED)
    training = study.training
    result = RowResult(
        key=row.key,
        name=row.name,
        encryption=row.encryption,
        sites=len(study.federation.sites),
        classes=study.classes,
        protection=told.started.protection if told.started else "",
        size=study.images.size,
        rounds=training.rounds,
        local_epochs=training.local_epochs,
        learning_rate=training.learning_rate,
        train_images=outcome.train_images,
        test_images=len(predictions.labels),
        accuracy=Estimate.of(right),
        macro_auroc=told.test.get("macro_auroc"),
        chance=_chance(predictions),
        leakage=leaks.leakage,
        attacks=leaks.attacks,
        minutes=outcome.minutes,
        model_sha256=told.closed.model_sha256 if told.closed else "",
    )
    pictures = folder / "pictures"
    pictures.mkdir(mode=0o700, exist_ok=True)
    for number, (caption, png) in enumerate(leaks.pictures.items()):
        replace_private(pictures / f"{number} {caption}.png", [png])
    predicted = BytesIO()  # it names patients
    np.savez(predicted, **asdict(predictions))
    replace_private(folder / _PREDICTIONS, [predicted.getvalue()])
    # last and whole: a row with this file is done
    replace_private(folder / _ROW, [result.model_dump_json(indent=1).encode()])


def read_row(folder: Path) -> RowResult | None:
    """The row that ``finish_row`` kept in a folder, or None if it is not done.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / _ROW
    if not path.exists():
        return None
    try:
        return RowResult.model_validate_json(path.read_bytes())
    except ValidationError:
        raise RunError(
            f"{path}: not the result of a row of this version", hint="remove it to measure anew"
        ) from None


def read_pictures(folder: Path) -> dict[str, bytes]:
    """The row's pictures by caption, in order."""
    paths = sorted((folder / "pictures").glob("*.png"))
    return {path.stem.partition(" ")[2]: path.read_bytes() for path in paths}


def compare(rows: Sequence[tuple[Path, RowResult]]) -> list[RowResult]:
    """The rows, each beside row (a), if that is done."""
    plain = next((folder for folder, result in rows if result.key == "a"), None)
    compared = []
    for folder, result in rows:
        if plain is None or folder == plain:
            compared.append(result)
            continue
        one, other = _read_predictions(plain), _read_predictions(folder)
        less = difference_interval(one.correct, one.groups, other.correct, other.groups, seed=_SEED)
        compared.append(result.model_copy(update={"less_than_plain": Estimate.of(less)}))
    return compared


def _read_predictions(folder: Path) -> Predictions:
    with np.load(folder / _PREDICTIONS) as kept:
        return Predictions(**{name: kept[name] for name in kept})


def _chance(predictions: Predictions) -> float:
    """The accuracy of answers as frequent as these, but independent of the image."""
    classes = predictions.probabilities.shape[1]
    images = len(predictions.labels)
    true = np.bincount(predictions.labels, minlength=classes) / images
    given = np.bincount(predictions.probabilities.argmax(axis=1), minlength=classes) / images
    return float(true @ given)
