"""How far parameters may move in a round: a rule for all sites, and one byte for each range."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Parameters = Mapping[str, NDArray[np.float32]]
"""Tensors by name, in the order of the model's state dict."""

RANGE_BITS = 8
"""Bits of a range's code."""

CONTROL = "control."
"""What the names of SCAFFOLD's control variates begin with."""

_PARTS = 8  # codes from one power of two to the next, so that a range is an eighth too wide at most
_LOWEST = -8  # code 0 is a range of ±2^−8, code 255 one of ±1.5e7
_GROWTH = 2.0
_ROOM = 0.1
_CONTROL_ROOM = 0.25  # the first control variates come upon a c of 0


def count_ranges(shape: tuple[int, ...]) -> int:
    """How many ranges a tensor has: one, or one for each of its output channels.

    Each output channel of a convolution is normalised by itself, so that weights of 0.03 in one
    channel matter as much as weights of 50 in the next.
    """
    return shape[0] if len(shape) > 1 else 1


def ranges_of(model: Parameters) -> NDArray[np.int64]:
    """(ranges,) codes for the next round, derived from the last global model, tensor by tensor.

    A site sends its weight times its parameters, so a channel may grow to twice its largest
    magnitude and a little more, weights near zero as well, even at a site that has nearly all
    images. Batch norm's running statistics move with the data and not with the learning rate: a
    variance may grow sixteen-fold, and a mean by four of its standard deviations. Control variates
    have more room at 0, where they begin.
    """
    return np.concatenate([_codes_of(name, array, model) for name, array in model.items()])


def extents_of(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(ranges,) the ± of each code."""
    exponents, parts = np.divmod(codes, _PARTS)
    extents: NDArray[np.float64] = np.ldexp((_PARTS + parts) / _PARTS, exponents + _LOWEST)
    return extents


def _codes_of(name: str, array: NDArray[np.float32], model: Parameters) -> NDArray[np.int64]:
    rows = np.abs(array.reshape(count_ranges(array.shape), -1)).astype(np.float64)
    largest = rows.max(axis=1, initial=0.0)
    if name.endswith("running_var"):
        extents = 16 * largest + _ROOM
    elif name.endswith("running_mean"):
        variance = model.get(f"{name.removesuffix('mean')}var", np.ones(1, np.float32))
        extents = 4 * largest + 4 * math.sqrt(np.abs(variance).max(initial=0.0)) + _ROOM
    else:
        room = _CONTROL_ROOM if name.startswith(CONTROL) else _ROOM
        extents = _GROWTH * largest + room
    fractions, exponents = np.frexp(extents)  # a fraction is in [1/2, 1)
    parts = np.ceil(fractions * 2 * _PARTS).astype(np.int64) - _PARTS
    codes = (exponents - 1 - _LOWEST) * _PARTS + parts
    limited: NDArray[np.int64] = np.clip(codes, 0, 2**RANGE_BITS - 1)
    return limited
