"""Integers in several small values each, so that sums of the values give sums of the integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import ValueRangeError

_LARGEST_SUM = 2**62


def limbs_needed(integer_bits: int, value_bits: int) -> int:
    """Values that one integer takes."""
    return -(-integer_bits // value_bits)


def split_integers(
    integers: NDArray[np.int64], *, limbs: int, value_bits: int
) -> NDArray[np.int64]:
    """(n·limbs,) values in [0, 2**value_bits) of (n,) non-negative integers, lowest limb first."""
    shifts = np.arange(limbs) * value_bits
    values: NDArray[np.int64] = (integers[:, None] >> shifts) & (2**value_bits - 1)
    return values.reshape(-1)


def join_integers(sums: NDArray[np.int64], *, limbs: int, value_bits: int) -> NDArray[np.int64]:
    """(n,) sums of integers from (n·limbs,) sums of their values.

    Raises:
        ValueRangeError: one of them is not below 2**62.
    """
    rows = sums.reshape(-1, limbs)
    rough = rows @ 2.0 ** (np.arange(limbs) * value_bits)
    if (rough >= _LARGEST_SUM).any():
        raise ValueRangeError("a sum of integers does not fit into 62 bits")
    # the highest limb may be 0 where its place is beyond 63 bits; then there is nothing to add
    whole = np.zeros(len(rows), np.int64)
    for position in range(limbs):
        if position * value_bits < 62:
            whole += rows[:, position] << (position * value_bits)
    return whole
