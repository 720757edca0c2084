"""A hospital's part in the federation's mean X-rays: what it adds to them, and what it releases."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ppfl.federation import Opened
from ppfl.federation.xray_sums import ClassSum
from ppfl.learning.images import ImageSet
from ppfl.settings import Study
from ppfl.xray.pictures import shrink


def classes_held(study: Study, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(classes,) 1 where a site has enough images of a class to hide each of them, else 0."""
    images = np.bincount(labels, minlength=len(study.classes))
    return (images >= study.federation.release_floor).astype(np.int64)


def xrays_to_add(
    study: Study, data: ImageSet, enrolled: Opened, step: Callable[[int, int], None]
) -> list[Iterator[NDArray[np.uint8]]]:
    """The X-rays of each class, as large as the mean; none of a class the site takes no part in.

    It takes part where it has enough images itself, so that a site which subtracts its own X-rays
    from the sum is not left with few, and where enough sites do, because every site can open the
    sum, however small. ``step`` is told how many X-rays were asked for, and of how many.
    """
    enough = enrolled.integers["class_sites"] >= study.federation.minimum_sites
    taken = classes_held(study, data.labels) * enough
    places = [np.flatnonzero((data.labels == c) & (taken[c] > 0)) for c in range(len(taken))]
    of, done = sum(map(len, places)), count(1)

    def shrunk(rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:
            pixels = data.images[row].astype(np.uint16)
            yield np.asarray(shrink(pixels, bits=8, size=study.mean_xray_size))
            step(next(done), of)

    return [shrunk(rows) for rows in places]


def means_to_release(sums: Mapping[str, ClassSum]) -> dict[str, str]:
    """The mean X-ray of each class, its pixels row by row in base64."""
    return {name: b64encode(each.mean().tobytes()).decode() for name, each in sums.items()}
