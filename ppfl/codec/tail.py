"""Exact integers behind the parameters: counts, weights, ranges, histograms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.codec.limbs import join_integers, limbs_needed, split_integers
from ppfl.errors import MalformedMessageError, ValueRangeError

Integers = Mapping[str, NDArray[np.int64]]
"""Arrays of non-negative integers by name."""


@dataclass(frozen=True, slots=True)
class TailField:
    """One array of a tail: its shape, and the bits of its integers, at most 60."""

    shape: tuple[int, ...]
    bits: int = 60


@dataclass(frozen=True, slots=True)
class TailLayout:
    """Where non-negative integers lie in a vector of small values.

    An integer is cut into limbs of ``value_bits``, lowest first. Limbs are added separately and
    put together again afterwards, so a sum is exact however many sites it has.
    """

    fields: Mapping[str, TailField]
    value_bits: int

    @property
    def values(self) -> int:
        """Values that the whole tail takes."""
        return sum(size * limbs for _, _, size, limbs in self._places())

    def encode(self, integers: Integers) -> NDArray[np.int64]:
        """(values,) limbs, each in [0, 2**value_bits).

        Raises:
            ValueRangeError: an integer is negative or too large; the message names its field.
            MalformedMessageError: names or shapes are not those of the layout.
        """
        shapes = {name: field.shape for name, field in self.fields.items()}
        if {name: array.shape for name, array in integers.items()} != shapes:
            raise MalformedMessageError("the tail's fields are not those of the study")
        parts = []
        for name, field, _, limbs in self._places():
            array = integers[name]
            if array.size and (array.min() < 0 or int(array.max()) >> field.bits):
                raise ValueRangeError(f"{name} holds an integer outside [0, 2**{field.bits})")
            flat = array.reshape(-1)
            parts.append(split_integers(flat, limbs=limbs, value_bits=self.value_bits))
        return np.concatenate(parts)

    def decode(self, sums: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The sums of the integers.

        Raises:
            MalformedMessageError: there are not as many sums as values.
            ValueRangeError: a sum does not fit into 62 bits.
        """
        if sums.shape != (self.values,):
            raise MalformedMessageError("the sums are not those of the study's tail")
        integers: dict[str, NDArray[np.int64]] = {}
        start = 0
        for name, field, size, limbs in self._places():
            end = start + size * limbs
            flat = join_integers(sums[start:end], limbs=limbs, value_bits=self.value_bits)
            integers[name] = flat.reshape(field.shape)
            start = end
        return integers

    def _places(self) -> Iterator[tuple[str, TailField, int, int]]:
        """Each field with its size and its limbs."""
        for name, field in self.fields.items():
            yield name, field, math.prod(field.shape), limbs_needed(field.bits, self.value_bits)
