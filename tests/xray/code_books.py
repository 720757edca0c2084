"""X-rays made into cipher images without a key: a code book is drawn at random."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from ppfl.xray.phantoms import PHANTOM_CLASSES, Scanner, draw_phantom

Bytes = NDArray[np.uint8]


def phantoms(count: int, *, seed: int, size: int = 64, gamma: float = 1.0) -> Bytes:
    """(count, size * 7 / 8, size), one patient after the other.

    Without the burnt-in mark, whose black on white would make both ends of the scale neighbours.
    """
    generator = default_rng(seed)
    scanner = Scanner(gamma=gamma)
    return np.stack(
        [
            draw_phantom(
                PHANTOM_CLASSES[i % len(PHANTOM_CLASSES)],
                size=size,
                generator=generator,
                scanner=scanner,
            )
            for i in range(count)
        ]
    )[:, size // 8 :]


def under_one_randomizer(plain: Bytes, generator: Generator) -> Bytes:
    """Every grey has its own colour."""
    codes = generator.choice(2**24, size=256, replace=False)
    book = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)
    return book[plain]


def one_byte_of_it(plain: Bytes, generator: Generator) -> Bytes:
    """Greys share bytes by chance, 256 of them some 160; three equal channels."""
    return in_three_channels(generator.integers(256, size=256).astype(np.uint8)[plain])


def under_fresh_randomizers(plain: Bytes, generator: Generator) -> Bytes:
    return generator.integers(256, size=(*plain.shape, 3)).astype(np.uint8)


def in_three_channels(grey: Bytes) -> Bytes:
    return np.repeat(grey[..., None], 3, axis=-1)
