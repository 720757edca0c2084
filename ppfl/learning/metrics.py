"""Figures of a model's quality, all from counts that add up.

The counts of two sets of images, added, are the counts of their union, so that the federation's
figures are those of the pooled images, exactly.

[GPS17] Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, MalformedMessageError

SCORE_BINS, CONFIDENCE_BINS = 200, 15
FRACTION = 2**20  # a sum of floats would depend on its order, one of integers does not
_HIGHEST_LOSS = 32.0  # nats; what an image can add to the sum is bounded


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationCounts:
    """What a model did on a set of images, as int64 arrays, none negative, for C classes.

    - ``confusion`` (C, C): images by true and predicted class.
    - ``scores`` (C, 2, 200): for each class a histogram of its probability, of the images of other
      classes first, then of its own. Bin i holds those that reach i of 199 thresholds with logits
      ``0.1 * sinh(t) - log(C - 1)``, t even from arsinh(-1000) to arsinh(200).
    - ``calibration`` (15, 3): by 15 equal bins of the highest probability, each without its lower
      and with its upper end [GPS17, §2], so that certainty is in the last: images, of these
      classified correctly, and the sum of that probability in units of 2**-20.
    - ``loss`` (): the sum of cross-entropies, each at most 32 nats, in units of 2**-20.
    - ``brier`` (): the sum of squared errors of all probabilities, in units of 2**-20.

    One image adds at most 2**25 to any number.

    Raises:
        MalformedMessageError: shapes or types differ, a number is negative, or two arrays count
            different numbers of images.
    """

    confusion: NDArray[np.int64]
    scores: NDArray[np.int64]
    calibration: NDArray[np.int64]
    loss: NDArray[np.int64]
    brier: NDArray[np.int64]

    def __post_init__(self) -> None:
        classes = self.confusion.shape[0] if self.confusion.ndim else 0
        for name, shape in _shapes(classes).items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.int64:
                raise MalformedMessageError(
                    f"{name}: expected int64 of shape {shape}, got {array.dtype} of {array.shape}"
                )
            if (array < 0).any():
                raise MalformedMessageError(f"{name}: a count is negative")
        images = self.confusion.sum()
        if self.calibration[:, 0].sum() != images or (self.scores.sum(axis=(1, 2)) != images).any():
            raise MalformedMessageError("the counts are not of one set of images")

    @classmethod
    def empty(cls, classes: int) -> Self:
        """The counts of no images."""
        return cls(**{name: np.zeros(s, np.int64) for name, s in _shapes(classes).items()})

    @classmethod
    def from_predictions(
        cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> Self:
        """The counts of images with these probabilities (n, C) and true classes (n,).

        Raises:
            DataError: a label is no class.
        """
        images, classes = probabilities.shape
        if images and (labels.min() < 0 or labels.max() >= classes):
            raise DataError(f"a label is outside [0, {classes})")
        truth = labels[:, None] == np.arange(classes)
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (labels, predicted), 1)

        scores = np.zeros((classes, 2, SCORE_BINS), np.int64)
        bins = np.searchsorted(_thresholds(classes), probabilities, side="right")
        np.add.at(scores, (np.arange(classes), truth.astype(np.int64), bins), 1)

        calibration = np.zeros((CONFIDENCE_BINS, 3), np.int64)
        edges = np.linspace(0, 1, CONFIDENCE_BINS + 1, dtype=np.float32)
        bins = np.searchsorted(edges[1:-1], confidence, side="left")
        row = np.stack([np.ones_like(labels), predicted == labels, _fixed(confidence)], axis=1)
        np.add.at(calibration, bins, row)

        own = np.maximum(probabilities[truth].astype(np.float64), math.exp(-_HIGHEST_LOSS))
        squares = np.square(probabilities.astype(np.float64) - truth).sum(axis=1)
        return cls(
            confusion=confusion,
            scores=scores,
            calibration=calibration,
            loss=np.asarray(_fixed(-np.log(own)).sum()),
            brier=np.asarray(_fixed(squares).sum()),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int64]]) -> Self:
        """The counts that ``as_arrays`` told.

        Raises:
            MalformedMessageError: they are not the counts of one set of images.
        """
        names = [field.name for field in fields(cls)]
        if sorted(arrays) != sorted(names):
            raise MalformedMessageError(f"expected counts {names}, got {sorted(arrays)}")
        return cls(**arrays)

    def as_arrays(self) -> dict[str, NDArray[np.int64]]:
        """The arrays by name, in a fixed order; their shapes depend on the classes alone."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: Self) -> Self:
        theirs = other.as_arrays()
        return type(self)(**{n: np.asarray(a + theirs[n]) for n, a in self.as_arrays().items()})


def _shapes(classes: int) -> dict[str, tuple[int, ...]]:
    return {
        "confusion": (classes, classes),
        "scores": (classes, 2, SCORE_BINS),
        "calibration": (CONFIDENCE_BINS, 3),
        "loss": (),
        "brier": (),
    }


def _thresholds(classes: int) -> NDArray[np.float32]:
    """Ascending probabilities (199,), closest about 1 / C and ever closer towards 0 and 1.

    Even steps of the logit would put all scores of a model that is still unsure in one bin; even
    steps of the probability, most scores of a very sure one. The ends are those of float32.
    """
    steps = np.linspace(np.arcsinh(-1000), np.arcsinh(200), SCORE_BINS - 1)
    odds = np.exp(0.1 * np.sinh(steps)) / (classes - 1)
    # Rounding hides that sinh and exp may differ between machines in the last bit.
    return (odds / (1 + odds)).astype(np.float32)


def _fixed(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.rint(values.astype(np.float64) * FRACTION).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class against the rest; NaN where no image, or every image, is of the class.

    ``auroc`` takes scores in one of 200 bins for equal, which costs less than 0.001 as long as the
    model's logits vary from image to image by 0.1 (standard deviation) or more, up to saturation.
    It is too low where they vary less (at 0.01 by 0.006), or as little about unequal
    odds of the classes (at 0.3 by 0.002, at 0.1 by 0.013): a head that has hardly learnt.
    """

    auroc: float
    sensitivity: float
    specificity: float
    images: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well a model does on a set of images; NaN where the images cannot tell.

    Shares lie in [0, 1]. ``balanced_accuracy`` (the mean sensitivity) and ``macro_auroc`` leave out
    classes without images. ``ece`` is the expected calibration error over 15 bins [GPS17];
    torchmetrics gives probabilities of exactly 1 a sixteenth, which is not the definition.
    ``brier`` lies in [0, 2], ``loss`` is the mean cross-entropy in nats. ``confusion`` is by true,
    then by predicted class.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    macro_auroc: float
    classes: dict[str, ClassMetrics]
    ece: float
    brier: float
    loss: float
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures ready for JSON: plain tables and lists, ``None`` for NaN."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def compute_metrics(counts: EvaluationCounts, class_names: Sequence[str]) -> Metrics:
    """The figures that follow from the counts; ``class_names`` are those of the C classes."""
    confusion = counts.confusion
    images, own, hits = confusion.sum(), confusion.sum(axis=1), confusion.diagonal()
    others = images - own
    auroc = _auroc(counts.scores)
    sensitivity = _share(hits, own)
    specificity = _share(others - (confusion.sum(axis=0) - hits), others)
    table = zip(class_names, auroc, sensitivity, specificity, own, strict=True)
    off = np.abs(counts.calibration[:, 1] - counts.calibration[:, 2] / FRACTION).sum()
    return Metrics(
        images=int(images),
        accuracy=float(_share(hits.sum(), images)),
        balanced_accuracy=_mean(sensitivity),
        macro_auroc=_mean(auroc),
        classes={n: ClassMetrics(float(a), float(t), float(f), int(i)) for n, a, t, f, i in table},
        ece=float(_share(off, images)),
        brier=float(_share(counts.brier / FRACTION, images)),
        loss=float(_share(counts.loss / FRACTION, images)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _auroc(scores: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of pairs (other, own) in which the own image scores higher; equal ones half."""
    others, own = scores[:, 0], scores[:, 1]
    lower = others.cumsum(axis=1) - others / 2
    return _share(_share((own * lower).sum(axis=1), own.sum(axis=1)), others.sum(axis=1))


def _share(part: Any, whole: Any) -> NDArray[np.float64]:
    nothing = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)
    return nothing


def _mean(figures: NDArray[np.float64]) -> float:
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if known.size else math.nan
