"""Confidence intervals of accuracies, by bootstrap over patients.

X-rays of one patient are no independent draws, so whole groups are drawn [FW07]; percentiles of
the resamples are the interval [ET93, §13]. Where every answer is right, or every one wrong, all
resamples are alike, and the interval is the exact one over patients [CP34].

[CP34] C. Clopper, E. Pearson, "The Use of Confidence or Fiducial Limits", Biometrika 26, 1934.
[ET93] B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993.
[FW07] C. Field, A. Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69, 2007.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError

_RESAMPLES = 10_000
_OUTSIDE = 0.05  # the chance that an interval does not hold its figure
_AT_ONCE = 500  # resamples in memory at one time


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def accuracy_interval(
    correct: NDArray[np.bool_], groups: NDArray[np.str_], *, seed: int
) -> Interval:
    """The share of right answers (n,) in [0, 1]; ``groups`` (n,) names each image's patient.

    Raises:
        DataError: there is no image.
    """
    patients, member = np.unique(groups, return_inverse=True)
    if len(patients) and correct.min() == correct.max():
        reach = (_OUTSIDE / 2) ** (1 / len(patients))
        return Interval(1.0, reach, 1.0) if correct.all() else Interval(0.0, 0.0, 1 - reach)
    return _interval(_Means(correct, member), len(patients), seed=seed)


def difference_interval(
    one: NDArray[np.bool_],
    one_groups: NDArray[np.str_],
    other: NDArray[np.bool_],
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
    return _interval(lambda drawn: first(drawn) - second(drawn), len(patients), seed=seed)


class _Means:
    """Accuracies of resamples, from how often each patient was drawn: (k, patients) to (k,)."""

    def __init__(self, correct: NDArray[np.bool_], member: NDArray[np.intp]) -> None:
        self._right = np.bincount(member, weights=correct)
        self._images = np.bincount(member)

    def __call__(self, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = drawn @ self._right / (drawn @ self._images)
        return means


def _interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], patients: int, *, seed: int
) -> Interval:
    if patients == 0:
        raise DataError("no image to compute an interval from")
    generator = np.random.default_rng(seed)
    shares = np.full(patients, 1 / patients)
    found = [
        statistic(generator.multinomial(patients, shares, size=_AT_ONCE))
        for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(found), (_OUTSIDE / 2, 1 - _OUTSIDE / 2))
    value = statistic(np.ones((1, patients), np.int64))[0]
    return Interval(float(value), float(low), float(high))
