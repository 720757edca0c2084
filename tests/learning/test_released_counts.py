from __future__ import annotations

import numpy as np
import pytest

from ppfl.errors import DataError, MalformedMessageError
from ppfl.learning.intervals import share_interval
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.released_counts import (
    SPECIFICITIES,
    ReleasedCounts,
    images_to_tell,
    may_tell_by_class,
    roc,
)
from tests.report.runs import CLASSES, evaluated, predictions


def test_every_joined_bin_holds_as_many_images_as_the_floor() -> None:
    counts = evaluated(500)
    for floor in (1, 20, 400, 500):
        told = ReleasedCounts.of(counts, floor=floor)
        assert min(table[:, 1:].sum(axis=1).min() for table in told.scores) >= floor
        assert told.calibration[:, 1].min() >= floor
        assert [t[:, 1:].sum(axis=0).tolist() for t in told.scores] == [
            kinds.sum(axis=1).tolist() for kinds in counts.scores
        ]
    assert all(len(table) == 1 for table in ReleasedCounts.of(counts, floor=400).scores)


def test_one_class_of_few_images_hides_all() -> None:
    probabilities, labels = predictions(300)
    few = (labels != 0) | (np.cumsum(labels == 0) <= 19)
    counts = EvaluationCounts.from_predictions(probabilities[few], labels[few])
    assert not may_tell_by_class(counts, 20)
    assert may_tell_by_class(counts, 19)
    none = labels != 0
    counts = EvaluationCounts.from_predictions(probabilities[none], labels[none])
    assert may_tell_by_class(counts, 20)
    assert images_to_tell([19, 20, 0], CLASSES, 20) == {"Normal": 20}
    assert images_to_tell([19, 1, 0], CLASSES, 0) == {"COVID": 19, "Normal": 1}


def test_what_is_told_is_read_again_and_nothing_else_is() -> None:
    told = ReleasedCounts.of(evaluated(300), floor=20).to_dict()
    assert ReleasedCounts.from_dict(told).to_dict() == told
    wrong = [
        {},
        told | {"confusion": [[1, 2], [3, 4]]},
        told | {"confusion": [[-1, 301, 0], [0, 0, 0], [0, 0, 0]]},
        told | {"scores": told["scores"][:2]},
        told | {"scores": [told["scores"][0][::-1], *told["scores"][1:]]},
        told | {"scores": [told["scores"][0][:-1], *told["scores"][1:]]},
        told | {"calibration": [[15, 300, 1, 1]]},
        told | {"calibration": [[0, 300, 1]]},
        told | {"calibration": "none"},
    ]
    for table in wrong:
        with pytest.raises(MalformedMessageError):
            ReleasedCounts.from_dict(table)


def test_the_curve_is_that_of_the_images() -> None:
    counts = evaluated(2000, skill=1.2)
    exact = compute_metrics(counts, CLASSES).classes["COVID"].auroc
    curve = roc(ReleasedCounts.of(counts, floor=1).scores[0], auroc=exact, seed=1)
    assert curve is not None
    assert np.trapezoid(curve.true_positive, curve.false_positive) == pytest.approx(exact)
    probabilities, labels = predictions(2000, skill=1.2)
    own, others = (probabilities[labels == 0, 0], probabilities[labels != 0, 0])
    for specificity, found in zip(SPECIFICITIES, curve.sensitivities, strict=True):
        expected = (own > np.quantile(others, specificity)).mean()
        assert found.value == pytest.approx(expected, abs=0.02)
        assert found.low < expected < found.high


def test_the_intervals_width_is_that_of_many_draws() -> None:
    def area(seed: int) -> tuple[float, EvaluationCounts]:
        counts = evaluated(400, skill=1.2, seed=seed)
        return compute_metrics(counts, CLASSES).classes["COVID"].auroc, counts

    spread = 2 * 1.96 * np.std([area(seed)[0] for seed in range(150)])
    exact, counts = area(1)
    curve = roc(ReleasedCounts.of(counts, floor=20).scores[0], auroc=exact, seed=1)
    assert curve is not None
    assert curve.auroc.value == exact
    assert curve.auroc.low < exact < curve.auroc.high
    assert curve.auroc.high - curve.auroc.low == pytest.approx(spread, rel=0.3)


def test_without_images_of_both_kinds_there_is_no_curve() -> None:
    assert roc(np.asarray([[0, 40, 0]]), auroc=0.5, seed=1) is None


def test_a_share_of_images_has_wilsons_interval() -> None:
    found = share_interval(8, 10)
    # the worked example of Newcombe, Statist. Med. 17 (1998), method 3, is 81 of 263
    newcombe = share_interval(81, 263)
    assert (newcombe.low, newcombe.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert found.low < found.value < found.high < 1
    assert share_interval(10, 10).high == pytest.approx(1)
    with pytest.raises(DataError, match="no image"):
        share_interval(0, 0)
