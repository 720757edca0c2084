"""Two models' AUROCs on the same images, compared by DeLong's test.

Each image of the class has a placement, the share of other images that score lower (equal ones
half); each other image, the share of images of the class that score higher. Their covariances are
that of the AUROCs [DDC88]. Sorting finds all placements in O(n log n) instead of O(n²) [SX14].
Where a patient has several images, placements are added up by patient first [Obu97]; with one
image each that is DeLong's estimate.

[DDC88] E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated
receiver operating characteristic curves", Biometrics 44, 1988.
[Obu97] N. Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997.
[SX14] X. Sun, W. Xu, "Fast implementation of DeLong's algorithm for comparing the areas under
correlated receiver operating characteristic curves", IEEE Signal Processing Letters 21, 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError
from ppfl.learning.intervals import Interval

_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True, eq=False)
class PairedAurocs:
    """Two AUROCs in [0, 1], their covariance (2, 2), the first minus the second, and its p.

    ``p`` is two-sided, of the hypothesis that both are equal. It is NaN where the estimated
    variance of a difference is 0 although there is one, and 1 where there is none.
    """

    aurocs: tuple[float, float]
    covariance: NDArray[np.float64]
    difference: Interval
    p: float


def delong(
    own: NDArray[np.bool_],
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    *,
    groups: NDArray[np.str_] | None = None,
) -> PairedAurocs:
    """Compare two models' scores (n,) of the same images; ``own`` (n,) says which are of the class.

    Args:
        own: at least two are true and two false; with ``groups``, in two patients each.
        first: one model's scores, the higher the surer that an image is of the class.
        second: the other model's.
        groups: (n,) each image's patient; without it the images are taken to be independent.

    Raises:
        DataError: shapes differ, a score is NaN, or there are too few images.
    """
    scores = np.stack([first, second]) if first.shape == second.shape else np.empty((2, 0))
    patients = np.arange(own.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    if own.ndim != 1 or scores.shape != (2, own.size) or patients.shape != own.shape:
        raise DataError("scores, truth and patients are not of the same images")
    if np.isnan(scores).any():
        raise DataError("a score is NaN")
    kinds = [(own, len(np.unique(patients[own]))), (~own, len(np.unique(patients[~own])))]
    if min(found for _, found in kinds) < 2:
        raise DataError("DeLong's test needs two patients with the class, and two without")

    placements = np.empty_like(scores, np.float64)
    for row, out in zip(scores, placements, strict=True):
        out[own] = _share_below(row[own], row[~own])
        out[~own] = 1 - _share_below(row[~own], row[own])
    aurocs = placements[:, own].mean(axis=1)

    # What each patient adds to both AUROCs, by its images of the class and by its others.
    parts = []
    for members, found in kinds:
        deviations = (placements - aurocs[:, None]) * members / members.sum()
        sums = np.stack([np.bincount(patients, weights=row) for row in deviations])
        parts.append((sums, found / (found - 1)))
    (with_class, few), (without, many) = parts
    all_patients = patients.max() + 1
    cross = all_patients / (all_patients - 1) * with_class @ without.T
    covariance = few * with_class @ with_class.T + many * without @ without.T + cross + cross.T

    difference = float(aurocs[0] - aurocs[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    deviation = math.sqrt(max(float(variance), 0.0))
    reach = _NORMAL_975 * deviation
    return PairedAurocs(
        aurocs=(float(aurocs[0]), float(aurocs[1])),
        covariance=covariance,
        difference=Interval(difference, difference - reach, difference + reach),
        p=_two_sided(difference, deviation),
    )


def _share_below(scores: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """For each score the share of others that are lower, equal ones half."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    return below / (2 * len(others))


def _two_sided(difference: float, deviation: float) -> float:
    if deviation > 1e-12:  # less is what rounding leaves of none
        return math.erfc(abs(difference) / deviation / math.sqrt(2))
    return 1.0 if abs(difference) < 1e-12 else math.nan
