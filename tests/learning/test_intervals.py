from __future__ import annotations

import numpy as np
import pytest

from ppfl.errors import DataError
from ppfl.learning.intervals import accuracy_interval, difference_interval


def test_single_images_give_the_binomial_interval() -> None:
    correct = np.arange(1000) < 900
    found = accuracy_interval(correct, np.arange(1000).astype(str), seed=1)
    deviation = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert found.value == 0.9
    assert (found.low, found.high) == pytest.approx((0.9 - deviation, 0.9 + deviation), abs=0.003)


def test_images_of_one_patient_count_as_one_draw() -> None:
    correct = np.arange(1000) < 900
    alone = accuracy_interval(correct, np.arange(1000).astype(str), seed=1)
    tens = accuracy_interval(correct, (np.arange(1000) // 10).astype(str), seed=1)
    wider = (tens.high - tens.low) / (alone.high - alone.low)
    assert wider == pytest.approx(10**0.5, rel=0.1)


def test_a_difference_is_paired_by_patient() -> None:
    groups = np.arange(500).astype(str)
    one = np.random.default_rng(1).random(500) < 0.9
    same = difference_interval(one, groups, one[::-1], groups[::-1], seed=1)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = one.copy()
    other[np.flatnonzero(one)[:25]] = False
    found = difference_interval(one, groups, other, groups, seed=1)
    assert found.value == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - 0.019, 0.05 + 0.019), abs=0.004)


def test_answers_that_are_all_right_or_all_wrong_still_have_an_interval() -> None:
    groups = (np.arange(60) // 2).astype(str)  # 30 patients: the rule of three says about a tenth
    right = accuracy_interval(np.ones(60, np.bool_), groups, seed=1)
    wrong = accuracy_interval(np.zeros(60, np.bool_), groups, seed=1)
    assert (right.value, right.low, right.high) == (1, pytest.approx(0.884, abs=5e-4), 1)
    assert (wrong.value, wrong.low, wrong.high) == (0, 0, pytest.approx(0.116, abs=5e-4))


def test_one_model_always_right_and_the_other_never_still_has_an_interval() -> None:
    groups = (np.arange(60) // 2).astype(str)
    right, wrong = np.ones(60, np.bool_), np.zeros(60, np.bool_)
    more = difference_interval(right, groups, wrong, groups, seed=1)
    less = difference_interval(wrong, groups, right, groups, seed=1)
    assert (more.value, more.low, more.high) == (1, pytest.approx(0.769, abs=5e-4), 1)
    assert (less.value, less.low, less.high) == (-1, -1, -more.low)


def test_a_single_patient_says_nothing_of_others() -> None:
    one, groups = np.array([True, True, False, False]), np.array(["a"] * 4)
    found = accuracy_interval(one, groups, seed=1)
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    found = difference_interval(one, groups, ~one, groups, seed=1)
    assert (found.value, found.low, found.high) == (0, -1, 1)


def test_answers_that_cannot_be_compared_are_refused() -> None:
    some, groups = np.ones(3, np.bool_), np.array(["a", "b", "c"])
    with pytest.raises(DataError, match="paired"):
        difference_interval(some, groups, some[:2], groups[:2], seed=1)
    with pytest.raises(DataError, match="no image"):
        accuracy_interval(some[:0], groups[:0], seed=1)
