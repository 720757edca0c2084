"""Exact integers behind the parameters: counts, weights, ranges, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.codec.limbs import join_integers, limbs_needed, split_integers
from ppfl.errors import MalformedMessageError, ValueRangeError

Integers = Mapping[str, NDArray[np.int64]]
"""Arrays of non-negative integers by name."""

_INTEGER_BITS = 60


@dataclass(frozen=True, slots=True)
class TailLayout:
    """Where non-negative integers below 2**60 lie in a vector of small values.

    An integer is cut into limbs of ``value_bits``, lowest first. Limbs are added separately and
    put together again afterwards, so a sum is exact however many sites it has.
    """

    shapes: Mapping[str, tuple[int, ...]]
    value_bits: int

    @property
    def limbs(self) -> int:
        """Values that one integer takes."""
        return limbs_needed(_INTEGER_BITS, self.value_bits)

    @property
    def values(self) -> int:
        """Values that the whole tail takes."""
        return self.limbs * sum(math.prod(shape) for shape in self.shapes.values())

    def encode(self, integers: Integers) -> NDArray[np.int64]:
        """(values,) limbs, each in [0, 2**value_bits).

        Raises:
            ValueRangeError: an integer is negative or too large; the message names its field.
            MalformedMessageError: names or shapes are not those of the layout.
        """
        if {name: array.shape for name, array in integers.items()} != dict(self.shapes):
            raise MalformedMessageError("the tail's fields are not those of the study")
        for name, array in integers.items():
            if array.size and (array.min() < 0 or int(array.max()) >> _INTEGER_BITS):
                raise ValueRangeError(f"{name} holds an integer outside [0, 2**{_INTEGER_BITS})")
        flat = np.concatenate([array.reshape(-1) for array in integers.values()])
        return split_integers(flat, limbs=self.limbs, value_bits=self.value_bits)

    def decode(self, sums: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The sums of the integers.

        Raises:
            MalformedMessageError: there are not as many sums as values.
            ValueRangeError: a sum does not fit into 62 bits.
        """
        if sums.shape != (self.values,):
            raise MalformedMessageError("the sums are not those of the study's tail")
        flat = join_integers(sums, limbs=self.limbs, value_bits=self.value_bits)
        integers: dict[str, NDArray[np.int64]] = {}
        start = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            integers[name] = flat[start : start + size].reshape(shape)
            start += size
        return integers
