"""Parameters as signed fixed point, with a range for each channel that all sites can derive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.codec.limbs import join_integers, limbs_needed, split_integers
from ppfl.codec.ranges import Parameters, count_ranges, extents_of
from ppfl.errors import MalformedMessageError, NotFiniteError

WEIGHT_UNIT = 2.0**-32
"""A site's weight w_k is a whole multiple of this."""


def weight_units(weight: float) -> int:
    """A weight in (0, 1] as a whole multiple of ``WEIGHT_UNIT``, one at least."""
    return max(1, round(weight / WEIGHT_UNIT))


_VECTOR_BITS = 24
# Scales and shifts of batch norm, and biases, share one range a tensor, and are few.
_STATISTIC_BITS = 32
# Variances of one batch norm span six orders of magnitude, and batch norm divides by their roots:
# a step that suits a layer's weights would turn its small variances into zeros.


@dataclass(frozen=True, slots=True)
class Quantized:
    """One site's parameters as ``values`` (n,) in [0, 2**value_bits), and how many were clipped."""

    values: NDArray[np.int64]
    clipped: int


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Rounds weight · parameter to the nearest of 2**bits − 1 steps in ±range.

    ``bits`` is ``value_bits`` for tensors of two and more dimensions, at least 24 for vectors and
    at least 32 for batch norm's running statistics; an integer takes as many values as it needs.
    ``ranges`` (ranges,) are the codes of :func:`ppfl.codec.ranges.ranges_of`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ranges: NDArray[np.int64]
    value_bits: int

    @property
    def values(self) -> int:
        """How many values all tensors take."""
        return sum(grid.values for grid in self._grids())

    def quantize(self, parameters: Parameters, *, weight: int) -> Quantized:
        """The integers of weight · parameters, ``weight`` in units of ``WEIGHT_UNIT``.

        A parameter beyond its range is moved to the range's end and counted.

        Raises:
            NotFiniteError: a tensor holds NaN or infinity; the message names it.
            MalformedMessageError: names or shapes are not those of the model.
        """
        if {name: array.shape for name, array in parameters.items()} != dict(self.shapes):
            raise MalformedMessageError("the parameters are not those of the study's model")
        values = np.empty(self.values, np.int64)
        clipped, start = 0, 0
        for (name, array), grid in zip(parameters.items(), self._grids(), strict=True):
            scaled = array.astype(np.float64).reshape(grid.rows, -1)
            scaled *= weight * WEIGHT_UNIT / grid.steps
            if not np.isfinite(scaled).all():
                raise NotFiniteError(f"{name} holds NaN or infinity")
            np.rint(scaled, out=scaled)
            clipped += int(np.count_nonzero(np.abs(scaled) > grid.largest))
            np.clip(scaled, -grid.largest, grid.largest, out=scaled)
            integers = scaled.astype(np.int64).reshape(-1) + grid.offset
            end = start + grid.values
            values[start:end] = split_integers(
                integers, limbs=grid.limbs, value_bits=self.value_bits
            )
            start = end
        return Quantized(values=values, clipped=clipped)

    def dequantize(
        self, sums: NDArray[np.int64], *, summands: int, weight: int
    ) -> dict[str, NDArray[np.float32]]:
        """The average: sums of values of ``summands`` sites, divided by their sum of weights.

        Raises:
            MalformedMessageError: there are not as many sums as values, or the weight is not
                above 0.
        """
        if sums.shape != (self.values,) or weight <= 0:
            raise MalformedMessageError("the sums are not those of the study's model")
        average: dict[str, NDArray[np.float32]] = {}
        start = 0
        for (name, shape), grid in zip(self.shapes.items(), self._grids(), strict=True):
            end = start + grid.values
            integers = join_integers(sums[start:end], limbs=grid.limbs, value_bits=self.value_bits)
            centred = (integers - summands * grid.offset).reshape(grid.rows, -1)
            scaled = centred * (grid.steps / (weight * WEIGHT_UNIT))
            average[name] = scaled.astype(np.float32).reshape(shape)
            start = end
        return average

    def _grids(self) -> Iterator[_Grid]:
        """How each tensor's parameters are rounded."""
        start = 0
        for name, shape in self.shapes.items():
            end = start + count_ranges(shape)
            bits = self.value_bits
            if name.endswith(("running_mean", "running_var")):
                bits = max(bits, _STATISTIC_BITS)
            elif len(shape) < 2:
                bits = max(bits, _VECTOR_BITS)
            limbs = limbs_needed(bits, self.value_bits)
            yield _Grid(math.prod(shape), bits, limbs, extents_of(self.ranges[start:end]))
            start = end


@dataclass(frozen=True, slots=True)
class _Grid:
    """How one tensor is rounded: ``size`` integers of ``bits``, each in ``limbs`` values.

    ``extents`` (rows,) are the ranges of its rows.
    """

    size: int
    bits: int
    limbs: int
    extents: NDArray[np.float64]

    @property
    def values(self) -> int:
        """How many values the tensor takes."""
        return self.size * self.limbs

    @property
    def rows(self) -> int:
        """Parts of the tensor that have a range of their own."""
        return len(self.extents)

    @property
    def offset(self) -> int:
        """What makes the integers non-negative."""
        return 1 << (self.bits - 1)

    @property
    def largest(self) -> int:
        """The integer of a parameter at its range's end."""
        return self.offset - 1

    @property
    def steps(self) -> NDArray[np.float64]:
        """(rows, 1) what one unit of each row's integers is worth."""
        return self.extents[:, None] / self.largest
