"""What cipher images tell about the X-rays they were made from, measured without any attack.

Cipher images [BABK22] hold bytes of each pixel's Paillier ciphertext in place of its grey. Under
one randomizer for all pixels equal greys have equal ciphertexts, so that an image is the X-ray
seen through a code book; under a fresh randomizer a pixel says nothing of its grey.

[BABK22] W. Boulila, A. Ammar, B. Benjdira, A. Koubaa, "Securing the Classification of COVID-19 in
Chest X-ray Images: A Privacy-Preserving Deep Learning Approach", SMARTTECH 2022 (arXiv 2203.07728).
[CT06] T. M. Cover, J. A. Thomas, "Elements of Information Theory", 2nd ed., Wiley 2006.
[P03] L. Paninski, "Estimation of Entropy and Mutual Information", Neural Computation 15(6), 2003.
[WBSS04] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From Error
Visibility to Structural Similarity", IEEE Transactions on Image Processing 13(4), 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

from ppfl.errors import DataError

_LEVELS = 256
_COLOUR_BINS = 1024  # four times the colours of a code book, and few beside a million pixels
_EDGES = 0.1  # share of an image's pixels that count as its edges
_WINDOW = 7
_STABLE = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)  # C1 and C2 of [WBSS04, §III.B]

_Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Leakage:
    """How much cipher images resemble their X-rays; null values are what shuffled pixels give.

    A measure says something only above its null: an estimate from finitely many pixels is not 0
    for independent images, and mutual information is overestimated [P03].

    ``correlation`` is the largest absolute Pearson correlation of a channel with the grey, over
    all pixels, in [0, 1]; ``null_correlation`` is the 99th percentile of the shuffles.

    ``mutual_information_bits`` are bits per pixel in [0, ``plain_entropy_bits``]: what one pixel
    of a cipher image tells about its grey [CT06, §2.3], by its best channel or its whole colour,
    whichever lies furthest above the null. ``null_mutual_information_bits`` is the mean and
    ``null_mutual_information_bits_p99`` the 99th percentile of the shuffles, chosen likewise.

    ``edges_kept`` is the share of the X-rays' edges, the tenth of an image's pixels with the
    steepest gradient, that are among as many pixels where the cipher image changes most;
    ``edges_kept_by_chance``, some 0.1, is what unrelated images would share.

    ``structural_similarity`` in [-1, 1] is that of the best channel, near 0 for noise.
    """

    correlation: float
    null_correlation: float
    mutual_information_bits: float
    null_mutual_information_bits: float
    null_mutual_information_bits_p99: float
    plain_entropy_bits: float
    edges_kept: float
    edges_kept_by_chance: float
    structural_similarity: float


def measure_leakage(
    plain: NDArray[np.uint8],
    cipher: NDArray[np.uint8],
    *,
    generator: Generator,
    shuffles: int = 20,
) -> Leakage:
    """What cipher images (n, h, w, 3) uint8 leak of their X-rays, plain (n, h, w) uint8.

    ``generator`` shuffles the grey pixels of all images among each other, ``shuffles`` times, at
    least once. Whole colours are counted in at most 1,024 bins, by their rank; bins can only lose
    information [CT06, §2.8]. The bytes are measured as they are: what can be *computed* from them
    is for :mod:`ppfl.xray.attacks`.

    Raises:
        DataError: the two are not of these shapes and types, hold no pixel, or are below 7 pixels
            high or wide.
    """
    colours = pack_colours(cipher)
    if plain.ndim != 3 or plain.shape != colours.shape or plain.dtype != np.uint8:
        raise DataError(
            f"X-rays {plain.shape} {plain.dtype} beside cipher images {cipher.shape}; "
            "(n, h, w) uint8 and (n, h, w, 3) are needed"
        )
    channels = [cipher[..., i] for i in _distinct_channels(cipher)]
    similarity = max(structural_similarity(plain, channel) for channel in channels)
    ranks = np.unique(colours, return_inverse=True)[1].ravel() % _COLOUR_BINS
    symbols: list[NDArray[Any]] = [*(channel.ravel() for channel in channels), ranks]

    def measure(grey: NDArray[np.uint8]) -> tuple[float, list[float]]:
        tables = [_joint(grey, symbol) for symbol in symbols]
        correlation = max(abs(_correlation(table)) for table in tables[:-1])
        return correlation, [_mutual_information(table) for table in tables]

    grey = plain.ravel()
    correlation, found = measure(grey)
    nulls = [measure(generator.permutation(grey)) for _ in range(shuffles)]
    information = np.array([bits for _, bits in nulls])
    bias = information.mean(axis=0)
    best = int(np.argmax(found - bias))
    # The null has the same choice of a channel as the measure.
    excess = (information - bias).max(axis=1)
    edges_kept, edges_kept_by_chance = _edges_kept(plain, channels, colours)
    margins = np.bincount(grey, minlength=_LEVELS) / grey.size
    return Leakage(
        correlation=correlation,
        null_correlation=float(np.percentile([null for null, _ in nulls], 99)),
        mutual_information_bits=found[best],
        null_mutual_information_bits=float(bias[best]),
        null_mutual_information_bits_p99=float(bias[best] + np.percentile(excess, 99)),
        plain_entropy_bits=_entropy(margins),
        edges_kept=edges_kept,
        edges_kept_by_chance=edges_kept_by_chance,
        structural_similarity=similarity,
    )


def structural_similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The mean structural similarity of two stacks of grey images (n, h, w), [-1, 1] [WBSS04].

    1 is for equal images. Windows are 7 × 7 pixels of equal weight, not Gaussian, and lie
    within the image.

    Raises:
        DataError: the shapes differ, hold no pixel, or are below 7 pixels high or wide.
    """
    if one.shape != other.shape or one.ndim != 3 or not one.size or min(one.shape[1:]) < _WINDOW:
        raise DataError(
            f"images {one.shape} and {other.shape}; two of one shape (n, h, w), of at least "
            f"{_WINDOW} × {_WINDOW} pixels, are needed"
        )
    return float(np.mean([_similarity(*pair) for pair in zip(one, other, strict=True)]))


def pack_colours(cipher: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The colours of images (..., h, w, 3) as numbers (..., h, w) in [0, 2**24), red highest.

    Raises:
        DataError: the array has another shape or type.
    """
    if cipher.ndim < 3 or cipher.shape[-1] != 3 or cipher.dtype != np.uint8:
        raise DataError(
            f"cipher images {cipher.shape} {cipher.dtype}; (..., h, w, 3) uint8 is needed"
        )
    packed = np.zeros(cipher.shape[:-1], dtype=np.uint32)
    for i in range(3):
        packed = packed << np.uint32(8) | cipher[..., i]
    return packed


def _distinct_channels(cipher: NDArray[np.uint8]) -> list[int]:
    """Indices of channels that do not repeat an earlier one."""
    return [
        i
        for i in range(3)
        if not any(np.array_equal(cipher[..., i], cipher[..., j]) for j in range(i))
    ]


def _joint(grey: NDArray[np.uint8], symbols: NDArray[Any]) -> _Field:
    """How often a grey meets a symbol, (256, _COLOUR_BINS), as shares of all pixels."""
    places = grey.astype(np.int64) * _COLOUR_BINS + symbols
    counts = np.bincount(places, minlength=_LEVELS * _COLOUR_BINS)
    return counts.reshape(_LEVELS, _COLOUR_BINS) / grey.size


def _entropy(shares: _Field) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())


def _mutual_information(joint: _Field) -> float:
    """In bits, never negative but for rounding."""
    return _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0)) - _entropy(joint)


def _correlation(joint: _Field) -> float:
    """Pearson's, 0 if either side is constant."""
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    x = np.arange(len(rows)) - rows @ np.arange(len(rows))
    y = np.arange(len(columns)) - columns @ np.arange(len(columns))
    spread = (rows @ x**2) * (columns @ y**2)
    return float(x @ joint @ y / np.sqrt(spread)) if spread > 0 else 0.0


def _edges_kept(
    plain: NDArray[np.uint8], channels: list[NDArray[np.uint8]], colours: NDArray[np.uint32]
) -> tuple[float, float]:
    """The share of edges kept, and by chance.

    Several ways to see a change are tried, and the best is returned: how many neighbours have
    another colour, how far colours differ, and how far each channel does.
    """
    edges, by_chance, kept = 0, 0.0, np.zeros(2 + len(channels))
    for i, image in enumerate(plain):
        gradient = _gradient(image)
        steep = gradient >= np.quantile(gradient, 1 - _EDGES)
        found = int(steep.sum())
        edges += found
        by_chance += found**2 / steep.size
        steps = [_gradient(channel[i]) for channel in channels]
        views = (_differing(colours[i]), sum(steps), *steps)
        kept += [_strongest(view, found)[steep].sum() for view in views]
    return float(kept.max() / edges), by_chance / edges


def _gradient(image: NDArray[np.uint8]) -> Any:
    """The magnitude of Sobel's gradient within the border, (h - 2, w - 2)."""
    x = image.astype(np.float64)
    across = x[:, 2:] - x[:, :-2]
    down = x[2:] - x[:-2]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.hypot(dx, dy)


def _differing(colours: NDArray[np.uint32]) -> _Field:
    """How many of a pixel's eight neighbours have another colour, (h - 2, w - 2)."""
    windows = sliding_window_view(colours, (3, 3))
    differing: _Field = (windows != windows[..., 1:2, 1:2]).sum(axis=(2, 3)).astype(np.float64)
    return differing


def _strongest(strength: _Field, count: int) -> _Field:
    """1 for the ``count`` pixels with the most strength; ties at the limit share what is left.

    So a picture without any structure gives all pixels the same, and meets any other by chance.
    """
    limit = np.partition(strength, strength.size - count, axis=None)[strength.size - count]
    above, at = strength > limit, strength == limit
    weights: _Field = above + at * ((count - above.sum()) / at.sum())
    return weights


def _similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _box(x), _box(y)
    spread_x, spread_y = _box(x * x) - mean_x**2, _box(y * y) - mean_y**2
    together = _box(x * y) - mean_x * mean_y
    c1, c2 = _STABLE
    similar = (2 * mean_x * mean_y + c1) * (2 * together + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2))).mean())


def _box(x: _Field) -> _Field:
    """The mean of every window that lies within the image, by sums of rows and columns."""
    for _ in range(2):
        total = np.cumsum(np.pad(x, ((1, 0), (0, 0))), axis=0)
        x = (total[_WINDOW:] - total[:-_WINDOW]).T / _WINDOW
    return x
