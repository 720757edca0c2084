"""What the sites tell of the federation's counts in the clear, and the curves drawn from it.

A histogram of 200 bins has bins with a single image in them, and whoever has that image and the
model could look whether it was there. So bins are joined until each holds as many images as the
study's floor, and nothing is told by class while a class that has images has fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import MalformedMessageError
from ppfl.learning.intervals import Interval, count_intervals
from ppfl.learning.metrics import CONFIDENCE_BINS, FRACTION, SCORE_BINS, EvaluationCounts

SPECIFICITIES = (0.90, 0.95)
"""Where the curve is read for a sensitivity."""

Counts = NDArray[np.int64]


def may_tell_by_class(counts: EvaluationCounts, floor: int) -> bool:
    """Whether every class has no image, or so many that its figures may leave the sites.

    If one class has too few, no figure of another class is told: its own could be had from the
    others' and the total.
    """
    images = counts.confusion.sum(axis=1)
    return bool(((images == 0) | (images >= floor)).all())


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedCounts:
    """A federation's counts with bins joined, all int64, for C classes.

    - ``confusion`` (C, C): images by true and predicted class.
    - ``scores``: for each class (k, 3), k its own: the first of the 200 bins that were joined,
      images of other classes, and of its own; ascending.
    - ``calibration`` (k, 4): the first of the 15 bins that were joined, images, of these classified
      correctly, and the sum of the highest probability in units of 2**-20.

    Raises:
        MalformedMessageError: they are not the counts of one set of images.
    """

    confusion: Counts
    scores: tuple[Counts, ...]
    calibration: Counts

    def __post_init__(self) -> None:
        classes = len(self.confusion)
        images = self.confusion.sum()
        tables = [*((table, 3, SCORE_BINS) for table in self.scores)]
        tables.append((self.calibration, 4, CONFIDENCE_BINS))
        whole = self.confusion.shape == (classes, classes) and len(self.scores) == classes > 0
        if not whole or (self.confusion < 0).any():
            raise MalformedMessageError("the confusion matrix is none of these classes")
        for table, width, bins in tables:
            if table.ndim != 2 or table.shape[1] != width or (table < 0).any():
                raise MalformedMessageError("a histogram has another shape, or a negative count")
            starts = table[:, 0]
            if (np.diff(starts) <= 0).any() or (starts >= bins).any():
                raise MalformedMessageError("a histogram's bins are not ascending")
            counted = table[:, 1:3].sum() if width == 3 else table[:, 1].sum()
            if counted != images:
                raise MalformedMessageError("the counts are not of one set of images")

    @classmethod
    def of(cls, counts: EvaluationCounts, *, floor: int) -> Self:
        """The counts with bins joined, so that each holds ``floor`` images or more."""
        scores = []
        for others, own in counts.scores:
            starts = _join(others + own, floor)
            parts = [np.add.reduceat(kind, starts) for kind in (others, own)]
            scores.append(np.stack([starts, *parts], axis=1))
        starts = _join(counts.calibration[:, 0], floor)
        joined = np.add.reduceat(counts.calibration, starts, axis=0)
        return cls(
            counts.confusion, tuple(scores), np.concatenate([starts[:, None], joined], axis=1)
        )

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The counts that ``to_dict`` told.

        Raises:
            MalformedMessageError: they are none.
        """
        try:
            return cls(
                np.asarray(table["confusion"], np.int64),
                tuple(np.asarray(rows, np.int64) for rows in table["scores"]),
                np.asarray(table["calibration"], np.int64),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise MalformedMessageError("these are no released counts") from None

    def to_dict(self) -> dict[str, Any]:
        """The counts ready for JSON."""
        return {
            "confusion": self.confusion.tolist(),
            "scores": [table.tolist() for table in self.scores],
            "calibration": self.calibration.tolist(),
        }

    def reliability(self) -> list[tuple[float, int, int]]:
        """Mean confidence in [0, 1], images, and images classified correctly, of each bin."""
        return [
            (float(confidence / FRACTION / images), int(images), int(right))
            for _, images, right, confidence in self.calibration
        ]


@dataclass(frozen=True, slots=True)
class Roc:
    """One class's curve against the rest: points from (0, 0) to (1, 1), and what is read from it.

    ``sensitivities`` are in the order of ``SPECIFICITIES``. Between two points the curve is a
    straight line. Intervals are by redrawing as many images from the histogram; they are of
    images, and too narrow where patients have several.
    """

    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]
    auroc: Interval
    sensitivities: tuple[Interval, ...]


def roc(scores: Counts, *, auroc: float, seed: int) -> Roc | None:
    """The curve of a class from its joined histogram (k, 3); None without images of both kinds.

    Args:
        scores: as in ``ReleasedCounts``.
        auroc: the exact one, from all bins. Joining them costs a little, so the interval, which
            is that of the joined ones, is moved by as much.
        seed: of the redrawing.
    """
    descending = scores[::-1, 1:]
    if not descending.sum(axis=0).all():
        return None
    bins = len(descending)

    def read(drawn: Counts) -> NDArray[np.float64]:
        """(n, 2k) drawn counts to (n, 1 + sensitivities)."""
        false, true = _curves(drawn.reshape(-1, bins, 2))
        steps, middles = np.diff(false, axis=1), (true[:, 1:] + true[:, :-1]) / 2
        sensitivities = [_read_at(false, true, 1 - each) for each in SPECIFICITIES]
        return np.stack([(steps * middles).sum(axis=1), *sensitivities], axis=1)

    found = count_intervals(read, descending.reshape(-1), seed=seed)
    cost = auroc - found[0].value
    area = Interval(auroc, *(min(max(x + cost, 0.0), 1.0) for x in (found[0].low, found[0].high)))
    false, true = _curves(descending[None])
    return Roc(tuple(false[0].tolist()), tuple(true[0].tolist()), area, tuple(found[1:]))


def _curves(counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates (n, k + 1) of histograms (n, k, 2), highest scores first."""
    sums = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0), (0, 0)))
    with np.errstate(invalid="ignore"):  # a redrawing without images of one kind tells nothing
        rates = sums / sums[:, -1:]
    return rates[..., 0], rates[..., 1]


def _read_at(
    false: NDArray[np.float64], true: NDArray[np.float64], rate: float
) -> NDArray[np.float64]:
    """True positive rates (n,) where the false positive rate is so high, on the straight line."""
    rows = np.arange(len(false))
    after = np.minimum((false <= rate).sum(axis=1), false.shape[1] - 1)
    x0, x1 = false[rows, after - 1], false[rows, after]
    y0, y1 = true[rows, after - 1], true[rows, after]
    rates: NDArray[np.float64] = y0 + (y1 - y0) * (rate - x0) / (x1 - x0)
    return rates


def _join(images: Counts, floor: int) -> NDArray[np.intp]:
    """Where joined bins start so that each has ``floor`` images; what is left joins the last."""
    starts, inside = [0], 0
    for place, count in enumerate(images):
        if inside >= floor and images[place:].sum() >= floor:
            starts.append(place)
            inside = 0
        inside += count
    return np.asarray(starts)


def images_to_tell(images: Sequence[int], names: Sequence[str], floor: int) -> dict[str, int]:
    """The images of each class of which there are ``floor`` or more, at least one."""
    pairs = zip(names, images, strict=True)
    return {name: int(count) for name, count in pairs if count >= max(1, floor)}
