"""Parameters as signed fixed point, with a range for each tensor that nobody has to send."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.codec.limbs import join_integers, limbs_needed, split_integers
from ppfl.errors import MalformedMessageError, NotFiniteError

Parameters = Mapping[str, NDArray[np.float32]]
"""Tensors by name, in the order of the model's state dict."""

RANGE_UNIT = 2.0**-20
"""Ranges are whole multiples of this, so that they travel as integers and come back exactly."""

WEIGHT_UNIT = 2.0**-32
"""A site's weight w_k is a whole multiple of this."""

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

    ``bits`` is ``value_bits``; for batch norm's running statistics it is at least 32, and such an
    integer takes as many values as it needs. ``ranges`` (tensors,) int64 in units of
    ``RANGE_UNIT``, one for each tensor of ``shapes``.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ranges: NDArray[np.int64]
    value_bits: int

    @property
    def values(self) -> int:
        """How many values all tensors take."""
        return sum(size * grid.limbs for size, grid in self._grids())

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
        for (name, array), (size, grid) in zip(parameters.items(), self._grids(), strict=True):
            scaled = array.astype(np.float64).reshape(-1) * (weight * WEIGHT_UNIT / grid.step)
            if not np.isfinite(scaled).all():
                raise NotFiniteError(f"{name} holds NaN or infinity")
            np.rint(scaled, out=scaled)
            clipped += int(np.count_nonzero(np.abs(scaled) > grid.largest))
            np.clip(scaled, -grid.largest, grid.largest, out=scaled)
            integers = scaled.astype(np.int64) + grid.offset
            end = start + size * grid.limbs
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
        for (name, shape), (size, grid) in zip(self.shapes.items(), self._grids(), strict=True):
            end = start + size * grid.limbs
            integers = join_integers(sums[start:end], limbs=grid.limbs, value_bits=self.value_bits)
            centred = integers - summands * grid.offset
            scaled = centred * (grid.step / (weight * WEIGHT_UNIT))
            average[name] = scaled.astype(np.float32).reshape(shape)
            start = end
        return average

    def _grids(self) -> Iterator[tuple[int, _Grid]]:
        """For each tensor, how many parameters it has and how each of them is rounded."""
        for (name, shape), extent in zip(self.shapes.items(), self.ranges.tolist(), strict=True):
            bits = self.value_bits
            if name.endswith(("running_mean", "running_var")):
                bits = max(bits, _STATISTIC_BITS)
            grid = _Grid(bits, limbs_needed(bits, self.value_bits), extent * RANGE_UNIT)
            yield math.prod(shape), grid


@dataclass(frozen=True, slots=True)
class _Grid:
    """How one tensor is rounded: to integers of ``bits``, in ``limbs`` values, over ±``extent``."""

    bits: int
    limbs: int
    extent: float

    @property
    def offset(self) -> int:
        """What makes the integers non-negative."""
        return 1 << (self.bits - 1)

    @property
    def largest(self) -> int:
        """The integer of a parameter at its range's end."""
        return self.offset - 1

    @property
    def step(self) -> float:
        """What one unit of the integer is worth."""
        return self.extent / self.largest


def ranges_of(model: Parameters) -> NDArray[np.int64]:
    """(tensors,) ranges for the next round, derived from the last global model.

    A tensor may grow to four times its largest magnitude and a little more: weights start near
    zero. Batch norm's running statistics move with the data and not with the learning rate, so a
    variance may grow sixteen-fold, and a mean by four of its standard deviations.
    """
    ranges = np.empty(len(model), np.int64)
    for position, (name, array) in enumerate(model.items()):
        largest = _largest_magnitude(array)
        if name.endswith("running_var"):
            extent = 16 * largest + 0.1
        elif name.endswith("running_mean"):
            variance = model.get(f"{name.removesuffix('mean')}var", np.ones(1, np.float32))
            extent = 4 * largest + 4 * math.sqrt(_largest_magnitude(variance)) + 0.1
        else:
            extent = 4 * largest + 0.1
        ranges[position] = math.ceil(extent / RANGE_UNIT)
    return ranges


def _largest_magnitude(array: NDArray[np.float32]) -> float:
    return float(np.abs(array).max(initial=0.0))
