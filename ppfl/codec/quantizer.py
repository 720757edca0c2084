"""Parameters as signed fixed point, with a range for each tensor that nobody has to send."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import MalformedMessageError, NotFiniteError

Parameters = Mapping[str, NDArray[np.float32]]
"""Tensors by name, in the order of the model's state dict."""

RANGE_UNIT = 2.0**-20
"""Ranges are whole multiples of this, so that they travel as integers and come back exactly."""

WEIGHT_UNIT = 2.0**-32
"""A site's weight w_k is a whole multiple of this."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """One site's parameters as integers: ``values`` (n,) in [0, 2**value_bits)."""

    values: NDArray[np.int64]
    clipped: int


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Rounds weight · parameter to the nearest of 2**value_bits − 1 steps in ±range.

    ``ranges`` (tensors,) int64 in units of ``RANGE_UNIT``, one for each tensor of ``shapes``.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ranges: NDArray[np.int64]
    value_bits: int

    @property
    def values(self) -> int:
        """How many values all tensors hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def quantize(self, parameters: Parameters, *, weight: int) -> Quantized:
        """The integers of weight · parameters, ``weight`` in units of ``WEIGHT_UNIT``.

        A value beyond its range is moved to the range's end and counted.

        Raises:
            NotFiniteError: a tensor holds NaN or infinity; the message names it.
            MalformedMessageError: names or shapes are not those of the model.
        """
        if {name: array.shape for name, array in parameters.items()} != dict(self.shapes):
            raise MalformedMessageError("the parameters are not those of the study's model")
        values = np.empty(self.values, np.int64)
        clipped, start = 0, 0
        for (name, array), step in zip(parameters.items(), self._steps(), strict=True):
            scaled = array.astype(np.float64).reshape(-1) * (weight * WEIGHT_UNIT / step)
            if not np.isfinite(scaled).all():
                raise NotFiniteError(f"{name} holds NaN or infinity")
            np.rint(scaled, out=scaled)
            clipped += int(np.count_nonzero(np.abs(scaled) > self._largest))
            np.clip(scaled, -self._largest, self._largest, out=scaled)
            values[start : start + scaled.size] = scaled
            start += scaled.size
        values += self._offset
        return Quantized(values=values, clipped=clipped)

    def dequantize(
        self, sums: NDArray[np.int64], *, summands: int, weight: int
    ) -> dict[str, NDArray[np.float32]]:
        """The average: sums of integers of ``summands`` sites, divided by their sum of weights.

        Raises:
            MalformedMessageError: there are not as many sums as values, or the weight is not
                above 0.
        """
        if sums.shape != (self.values,) or weight <= 0:
            raise MalformedMessageError("the sums are not those of the study's model")
        average: dict[str, NDArray[np.float32]] = {}
        start = 0
        for (name, shape), step in zip(self.shapes.items(), self._steps(), strict=True):
            size = math.prod(shape)
            centred = sums[start : start + size] - summands * self._offset
            average[name] = (
                (centred * (step / (weight * WEIGHT_UNIT))).astype(np.float32).reshape(shape)
            )
            start += size
        return average

    @property
    def _offset(self) -> int:
        return 1 << (self.value_bits - 1)

    @property
    def _largest(self) -> int:
        return self._offset - 1

    def _steps(self) -> list[float]:
        return [int(r) * RANGE_UNIT / self._largest for r in self.ranges]


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
