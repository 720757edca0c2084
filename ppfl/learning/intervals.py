"""Confidence intervals of accuracies, by bootstrap over patients, and of what is only counted.

X-rays of one patient are no independent draws, so whole groups are drawn [FW07]; percentiles of
the resamples are the interval [ET93, §13]. Where every answer is right, or every one wrong, all
resamples are alike, and the interval is the exact one over patients [CP34]; so it is where one of
two is always right and the other always wrong. Of a single patient nothing follows for others.

Of a sum over hospitals no patients are known, only counts of images. A share of them has Wilson's
interval [Wil27]; what is read from a histogram, that of redrawing as many images from it.

[CP34] C. Clopper, E. Pearson, "The Use of Confidence or Fiducial Limits", Biometrika 26, 1934.
[ET93] B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993.
[FW07] C. Field, A. Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69, 2007.
[Wil27] E. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am.
Statist. Assoc. 22, 1927.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError

_RESAMPLES = 10_000
_OUTSIDE = 0.05  # the chance that an interval does not hold its figure
_AT_ONCE = 500  # resamples in memory at one time
NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile


Answers = NDArray[np.bool_] | NDArray[np.float64]
"""Of each image, whether it was answered rightly, or the share of several models that did."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def accuracy_interval(correct: Answers, groups: NDArray[np.str_], *, seed: int) -> Interval:
    """The mean of answers (n,) in [0, 1]; ``groups`` (n,) names each image's patient.

    Raises:
        DataError: there is no image.
    """
    patients, member = np.unique(groups, return_inverse=True)
    if len(patients) and correct.min() == correct.max() and correct[0] in (0, 1):
        least = _least_share(len(patients))
        return Interval(1.0, least, 1.0) if correct.all() else Interval(0.0, 0.0, 1 - least)
    if len(patients) == 1:
        return Interval(float(correct.mean()), 0.0, 1.0)
    return _interval(_Means(correct, member), len(patients), seed=seed)


def difference_interval(
    one: Answers,
    one_groups: NDArray[np.str_],
    other: Answers,
    other_groups: NDArray[np.str_],
    *,
    seed: int,
) -> Interval:
    """The first accuracy minus the second, in [−1, 1], paired by patient.

    Raises:
        DataError: there is no image, or the two are not of the same patients.
    """
    patients, member = np.unique(one_groups, return_inverse=True)
    others, other_member = np.unique(other_groups, return_inverse=True)
    if not np.array_equal(patients, others):
        raise DataError("accuracies on different patients cannot be paired")
    first, second = _Means(one, member), _Means(other, other_member)
    if len(patients):
        value = float(one.mean() - other.mean())
        if abs(value) == 1:
            low = 2 * _least_share(len(patients)) - 1  # of all others the opposite may hold
            return Interval(1.0, low, 1.0) if value > 0 else Interval(-1.0, -1.0, -low)
        if len(patients) == 1:
            return Interval(value, -1.0, 1.0)
    return _interval(lambda drawn: first(drawn) - second(drawn), len(patients), seed=seed)


def share_interval(part: int, whole: int) -> Interval:
    """A share of independent draws, in [0, 1]: ``part`` of ``whole`` images [Wil27].

    Raises:
        DataError: there is no image.
    """
    if whole <= 0:
        raise DataError("no image to compute an interval from")
    share, z2 = part / whole, NORMAL_975**2
    middle = (share + z2 / (2 * whole)) / (1 + z2 / whole)
    reach = math.sqrt(share * (1 - share) / whole + z2 / (4 * whole**2)) / (1 + z2 / whole)
    low, high = max(middle - NORMAL_975 * reach, 0.0), min(middle + NORMAL_975 * reach, 1.0)
    return Interval(share, low, high)


def count_intervals(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    counts: NDArray[np.int64],
    *,
    seed: int,
) -> list[Interval]:
    """Figures of images that are known by their counts (k,) in bins, as if they were independent.

    Args:
        statistic: m figures of each row of counts: (n, k) to (n, m). NaN where a row tells
            nothing; such draws are left out.
        counts: how many images are in each bin.
        seed: of the redrawing.

    Raises:
        DataError: there is no image.
    """
    draws = int(counts.sum())
    if draws == 0:
        raise DataError("no image to compute an interval from")
    generator = np.random.default_rng(seed)
    found = [
        statistic(generator.multinomial(draws, counts / draws, size=_AT_ONCE))
        for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    ends = np.nanquantile(np.concatenate(found), (_OUTSIDE / 2, 1 - _OUTSIDE / 2), axis=0)
    values = statistic(counts[None])[0]
    return [Interval(*(float(x) for x in each)) for each in zip(values, *ends, strict=True)]


class _Means:
    """Accuracies of resamples, from how often each patient was drawn: (k, patients) to (k,)."""

    def __init__(self, correct: Answers, member: NDArray[np.intp]) -> None:
        self._right = np.bincount(member, weights=correct)
        self._images = np.bincount(member)

    def __call__(self, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = drawn @ self._right / (drawn @ self._images)
        return means


def _least_share(patients: int) -> float:
    """How many of all patients at least are as these are, if all of these are alike [CP34]."""
    return math.pow(_OUTSIDE / 2, 1 / patients)


def _interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], patients: int, *, seed: int
) -> Interval:
    ones = np.ones(patients, np.int64)
    (found,) = count_intervals(lambda drawn: statistic(drawn)[:, None], ones, seed=seed)
    return found
