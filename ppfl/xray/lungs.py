"""Where the lungs are, told by copies of X-rays on which all else was blacked out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOOK_SIZE = 256
"""Side in pixels at which X-rays and cut-outs are compared."""

_BLACK = 10  # JPEG leaves up to this much where a cut-out is black
_CELL = 8  # pixels; means over cells are the same however a copy was compressed
_FEWEST_CELLS = 50  # a correlation over fewer could be high by chance
_SAME = 0.995  # correlation of copies; other X-rays of our collections stay below 0.992


def masks_from_cut_outs(xrays: NDArray[np.uint8], cut_outs: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks (n, 256, 256) of the lungs of X-rays (n, 256, 256), empty where there is no cut-out.

    A cut-out (m, 256, 256) is a copy of an X-ray that is black but for the lungs. It belongs to an
    X-ray whose grey levels inside the lungs are the same up to brightness and contrast (correlation
    of 0.995 or more), or up to these and a negative (−0.995 or less): names are lost in copies of
    copies, and some collections hold negatives. Its mask is where it is not black.
    """
    masks = np.zeros(xrays.shape, np.bool_)
    likeness = _likeness(xrays, cut_outs)
    if likeness.size:
        best = likeness.argmax(axis=0)
        for i in np.flatnonzero(likeness.max(axis=0) >= _SAME):
            masks[i] = cut_outs[best[i]] > _BLACK
    return masks


def _likeness(xrays: NDArray[np.uint8], cut_outs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Absolute correlations (m, n) of each cut-out with each X-ray inside the cut-out's lungs."""
    weights = (_cells(cut_outs > _BLACK) == 1).astype(np.float32)
    # centred, so that sums of squares keep their digits in float32
    x, y = _cells(xrays) - 128, (_cells(cut_outs) - 128) * weights
    cells = np.maximum(weights.sum(axis=1), 1)[:, None]
    mean_x, mean_y = weights @ x.T / cells, y.sum(axis=1)[:, None] / cells
    covariance = y @ x.T / cells - mean_x * mean_y
    variance_x = weights @ (x**2).T / cells - mean_x**2
    variance_y = (y**2).sum(axis=1)[:, None] / cells - mean_y**2
    spread = np.sqrt(np.maximum(variance_x * variance_y, 1))
    likeness: NDArray[np.float32] = np.abs(covariance) / spread
    likeness[cells[:, 0] < _FEWEST_CELLS] = 0
    return likeness


def _cells(images: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.float32]:
    """Means over square cells, (n, cells)."""
    side = LOOK_SIZE // _CELL
    shape = (len(images), side, _CELL, side, _CELL)
    means: NDArray[np.float32] = images.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(len(images), side * side)
