"""X-rays as arrays: records in, square 8-bit grey and labels out, kept in a cache."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, UnreadableImageError
from ppfl.learning.sources import ImageRecord
from ppfl.xray.pictures import Equalise, read_grey

_CACHE_VERSION = 2  # to be raised when the same files would give another cache


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images (n, size, size) in [0, 255] and their labels (n,), indices into the classes.

    ``groups`` (n,) names each image's patient, where that is known. Cipher images have three
    channels: (n, size, size, 3).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] = ()


def load_images(
    records: Sequence[ImageRecord],
    *,
    classes: Sequence[str],
    size: int,
    equalise: Equalise = "none",
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImageSet:
    """The records' images as `read_grey` gives them, ordered as by :func:`order_images`.

    ``cache`` is a folder in which these pixels alone are kept, for their owner's eyes only but in
    the clear, until a file's size or time of change differs; they are then mapped, not read. Those
    of other records go: an X-ray that was taken out must not stay readable.
    ``progress`` is called with the number of images done so far.

    Raises:
        UnreadableImageError: an image cannot be decoded; the message names the file.
        DataError: a record's label is not among the classes, or the cache cannot be written or
            emptied.
    """
    index = {label: i for i, label in enumerate(classes)}
    strange = next((record for record in records if record.label not in index), None)
    if strange:
        raise DataError(
            f"{strange.path}: class {strange.label}, but the classes are {', '.join(classes)}"
        )
    labels = np.array([index[record.label] for record in records], dtype=np.int64)
    kept = _cache_file(cache, records, size=size, equalise=equalise) if cache and records else None
    shapes = (len(records), size, size), (len(records),)
    cached = read_arrays(kept, *shapes) if kept else None
    ordered = _Ordered(*cached) if cached else None
    if ordered and progress:
        progress(len(records))
    if ordered is None:
        paths = [record.path for record in records]
        ordered = _order(decode_images(paths, size=size, equalise=equalise, progress=progress))
        if kept:
            write_arrays(kept, ordered.images, ordered.ranks)
    if cache:
        _forget_others(cache, kept)
    return ordered.with_labels(labels, [record.group for record in records])


def decode_images(
    paths: Sequence[Path],
    *,
    size: int,
    equalise: Equalise = "none",
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """The files' images (n, size, size), in the order of the paths.

    Raises:
        UnreadableImageError: an image cannot be decoded; the message names the file.
    """
    images = np.empty((len(paths), size, size), dtype=np.uint8)

    def decode(i: int) -> None:
        images[i] = np.asarray(read_grey(paths[i], size=size, equalise=equalise).picture)

    # Threads suffice: pillow lets go of the interpreter while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(paths))), start=1):
            if progress:
                progress(done)
    return images


def order_images(
    images: NDArray[np.uint8], labels: NDArray[np.int64], groups: Sequence[str]
) -> ImageSet:
    """Images (n, size, size), their labels (n,) and groups (n,) in the order of their content.

    Whichever order they come in, training then goes the same way: names and places are not the
    same in a folder, in its copy and in its vault. Images that look the same go by label and group.
    """
    return _order(images).with_labels(labels, groups)


def pixel_sums(images: ImageSet) -> tuple[int, int, int]:
    """How many pixels there are, their sum, and the sum of their squares: exact integers."""
    counts = np.zeros(256, dtype=np.int64)
    for image in images.images:
        counts += np.bincount(image.ravel(), minlength=256)
    levels = np.arange(256, dtype=np.int64)
    return int(counts.sum()), int(counts @ levels), int(counts @ levels**2)


def normalisation_of(pixels: int, total: int, squares: int) -> tuple[float, float]:
    """Mean and standard deviation of a pixel in [0, 1], from what ``pixel_sums`` tells."""
    mean = total / pixels
    variance = max(squares / pixels - mean * mean, 1.0)
    return mean / 255, math.sqrt(variance) / 255


@dataclass(frozen=True, slots=True, eq=False)
class _Ordered:
    """Images by their digests, and where among these each image was put.

    ``ranks`` (n,) are in the order in which the images came; equal images have equal ranks.
    """

    images: NDArray[np.uint8]
    ranks: NDArray[np.int64]

    def with_labels(self, labels: NDArray[np.int64], groups: Sequence[str]) -> ImageSet:
        """With labels and groups that are in the order in which the images came."""
        order = np.lexsort((np.array(groups, np.str_), labels, self.ranks))
        return ImageSet(self.images, labels[order], tuple(groups[i] for i in order))


def _order(images: NDArray[np.uint8]) -> _Ordered:
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    _, ranks = np.unique(np.array(digests, dtype="S64"), return_inverse=True)
    return _Ordered(images[np.argsort(ranks)], ranks)


def _cache_file(
    cache: Path, records: Sequence[ImageRecord], *, size: int, equalise: Equalise
) -> Path:
    """The file that holds these images like this, if they were decoded before."""
    try:
        stats = [record.path.stat() for record in records]
    except OSError as error:
        raise UnreadableImageError(f"{error.filename}: {error.strerror}") from None
    files = [
        [str(record.path), stat.st_size, stat.st_mtime_ns]
        for record, stat in zip(records, stats, strict=True)
    ]
    text = json.dumps([_CACHE_VERSION, size, files, *([equalise] if equalise != "none" else [])])
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"


def _forget_others(cache: Path, kept: Path | None) -> None:
    try:
        for path in cache.glob("*.npy"):
            if path != kept:
                path.unlink(missing_ok=True)  # another process of the site may do the same
    except OSError as error:
        raise DataError(
            f"{cache}: the image cache cannot be emptied: {error.strerror}",
            hint="delete the folder: X-rays that were taken out may be in it",
        ) from None


def read_arrays(kept: Path, *shapes: tuple[int, ...]) -> list[NDArray[Any]] | None:
    """The arrays that ``write_arrays`` kept, or None if there are none or the file is damaged.

    The first, of uint8, is mapped copy on write: torch wants arrays that may be written to.
    """
    try:
        first = np.load(kept, mmap_mode="c", allow_pickle=False)
        with kept.open("rb") as file:
            file.seek(first.offset + first.nbytes)
            arrays = [first, *(np.load(file, allow_pickle=False) for _ in shapes[1:])]
    except (OSError, ValueError, EOFError):
        return None
    sound = tuple(array.shape for array in arrays) == shapes and first.dtype == np.uint8
    return arrays if sound else None


def write_arrays(kept: Path, *arrays: NDArray[Any]) -> None:
    """Keep arrays in a cache, in the clear, for its owner's eyes only.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                for array in arrays:
                    np.save(file, array)
            os.replace(name, kept)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise DataError(
            f"{kept.parent}: the image cache cannot be written: {error.strerror}",
            hint="free some space, name another folder, or do without a cache",
        ) from None
