from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from ppfl.errors import DataError
from ppfl.learning.delong import delong

Scores = NDArray[np.float64]


def two_models(
    count: int, *, skills: tuple[float, float] = (1.5, 1.0), levels: int = 0, seed: int = 1
) -> tuple[NDArray[np.bool_], Scores, Scores]:
    """Truth and two correlated scores, rounded to so many levels if there shall be ties."""
    rng = np.random.default_rng(seed)
    own = np.arange(count) % 3 == 0
    shared = rng.normal(size=count)
    first, second = (shared + rng.normal(size=count) + skill * own for skill in skills)
    if levels:
        first, second = (np.rint(s * levels / 4) for s in (first, second))
    return own, first, second


def naive_covariance(own: NDArray[np.bool_], scores: list[Scores]) -> NDArray[np.float64]:
    """The definition: every pair of images, and sample covariances of the placements."""
    kernel = np.array(
        [[[(x > y) + 0.5 * (x == y) for y in row[~own]] for x in row[own]] for row in scores]
    )
    with_class, without = kernel.mean(axis=2), kernel.mean(axis=1)
    found: NDArray[np.float64] = np.cov(with_class) / own.sum() + np.cov(without) / (~own).sum()
    return found


@given(st.integers(6, 60), st.integers(0, 4), st.integers(0, 2**16))
def test_it_equals_the_definition(count: int, levels: int, seed: int) -> None:
    own, first, second = two_models(count, levels=levels, seed=seed)
    found = delong(own, first, second)
    expected = naive_covariance(own, [first, second])
    assert found.aurocs == pytest.approx([roc_auc_score(own, s) for s in (first, second)])
    assert found.covariance == pytest.approx(expected, abs=1e-12)
    difference = found.aurocs[0] - found.aurocs[1]
    deviation = math.sqrt(max(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1], 0))
    assert found.difference.value == pytest.approx(difference)
    assert found.difference.high - found.difference.low == pytest.approx(
        2 * 1.96 * deviation, rel=1e-4, abs=1e-9
    )


def test_p_is_that_of_the_normal_distribution() -> None:
    own, first, second = two_models(300)
    found = delong(own, first, second)
    wide = (found.difference.high - found.difference.low) / 2 / 1.959963984540054
    z = found.difference.value / wide
    assert found.p == pytest.approx(2 * (1 - _normal_below(z)), rel=1e-6)


def _normal_below(z: float) -> float:
    grid = np.linspace(-12, z, 400_001)
    return float(np.trapezoid(np.exp(-(grid**2) / 2), grid) / math.sqrt(2 * math.pi))


def test_one_in_twenty_equal_models_is_found_different() -> None:
    draws = [delong(*two_models(90, skills=(1, 1), seed=seed)).p < 0.05 for seed in range(300)]
    assert np.mean(draws) == pytest.approx(0.05, abs=0.03)


def test_a_patients_copies_add_nothing() -> None:
    own, first, second = two_models(60)
    alone = delong(own, first, second)
    copied = [np.repeat(array, 4) for array in (own, first, second)]
    groups = np.repeat(np.arange(60), 4).astype(str)
    together: Any = delong(copied[0], copied[1], copied[2], groups=groups)
    assert together.aurocs == pytest.approx(alone.aurocs)
    assert together.covariance == pytest.approx(alone.covariance)
    assert together.p == pytest.approx(alone.p)
    pretended = delong(copied[0], copied[1], copied[2])
    assert pretended.covariance == pytest.approx(alone.covariance / 4, rel=0.1)


def test_a_patient_may_have_images_of_both_kinds() -> None:
    """The estimated variance is that of AUROCs over many draws of such patients."""

    def draw(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(80), 2)
        own = np.tile([True, False], 80)
        habit = rng.normal(size=80)[groups]
        first, second = (2 * habit + rng.normal(size=160) + own for _ in range(2))
        return delong(own, first, second, groups=groups.astype(str))

    found = [draw(seed) for seed in range(400)]
    estimated = np.mean([f.covariance[0, 0] for f in found])
    assert estimated == pytest.approx(np.var([f.aurocs[0] for f in found]), rel=0.2)


def test_equal_scores_and_certain_ones() -> None:
    own, first, _ = two_models(30)
    same = delong(own, first, first)
    assert (same.difference.value, same.difference.low, same.p) == (0, 0, 1)
    perfect = delong(own, own.astype(float), np.zeros(30))
    assert perfect.aurocs == (1, 0.5)
    assert math.isnan(perfect.p)


def test_what_cannot_be_compared_is_refused() -> None:
    own, first, second = two_models(30)
    with pytest.raises(DataError, match="same images"):
        delong(own, first, second[1:])
    with pytest.raises(DataError, match="same images"):
        delong(own, first, second, groups=np.array(["a"]))
    with pytest.raises(DataError, match="NaN"):
        delong(own, np.where(own, np.nan, first), second)
    with pytest.raises(DataError, match="two patients"):
        delong(np.zeros(30, np.bool_), first, second)
    with pytest.raises(DataError, match="two patients"):
        delong(own, first, second, groups=np.full(30, "a"))
