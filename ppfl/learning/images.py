"""X-rays as arrays: records in, square 8-bit grey and labels out, kept in a cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, UnreadableImageError
from ppfl.learning.sources import ImageRecord
from ppfl.xray.pictures import read_grey

_CACHE_VERSION = 1  # to be raised when the same file would give other pixels


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images (n, size, size) in [0, 255] and their labels (n,), indices into the classes.

    Cipher images have three channels: (n, size, size, 3).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_images(
    records: Sequence[ImageRecord],
    *,
    classes: Sequence[str],
    size: int,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImageSet:
    """The records' images, ``size`` pixels square, in the order of the records.

    ``cache`` is a folder in which the pixels are kept, for their owner's eyes only but in the
    clear, until a file's size or time of change differs; they are then mapped, not read.
    ``progress`` is called with the number of images done so far.

    Raises:
        UnreadableImageError: an image cannot be decoded; the message names the file.
        DataError: a record's label is not among the classes, or the cache cannot be written.
    """
    index = {label: i for i, label in enumerate(classes)}
    strange = next((record for record in records if record.label not in index), None)
    if strange:
        raise DataError(
            f"{strange.path}: class {strange.label}, but the classes are {', '.join(classes)}"
        )
    labels = np.array([index[record.label] for record in records], dtype=np.int64)
    kept = _cache_file(cache, records, size=size) if cache and records else None
    images = read_array(kept, shape=(len(records), size, size)) if kept else None
    if images is not None and progress:
        progress(len(records))
    if images is None:
        images = _decode_all([record.path for record in records], size=size, progress=progress)
        if kept:
            write_array(kept, images)
    return ImageSet(images, labels)


def pixel_sums(images: ImageSet) -> tuple[int, int, int]:
    """How many pixels there are, their sum, and the sum of their squares: exact integers."""
    counts = np.zeros(256, dtype=np.int64)
    for image in images.images:
        counts += np.bincount(image.ravel(), minlength=256)
    levels = np.arange(256, dtype=np.int64)
    return int(counts.sum()), int(counts @ levels), int(counts @ levels**2)


def _decode_all(
    paths: Sequence[Path], *, size: int, progress: Callable[[int], None] | None
) -> NDArray[np.uint8]:
    images = np.empty((len(paths), size, size), dtype=np.uint8)

    def decode(i: int) -> None:
        images[i] = np.asarray(read_grey(paths[i], size=size).picture)

    # Threads suffice: pillow lets go of the interpreter while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(paths))), start=1):
            if progress:
                progress(done)
    return images


def _cache_file(cache: Path, records: Sequence[ImageRecord], *, size: int) -> Path:
    """The file that holds these images at this size, if they were decoded before."""
    try:
        stats = [record.path.stat() for record in records]
    except OSError as error:
        raise UnreadableImageError(f"{error.filename}: {error.strerror}") from None
    files = [
        [str(record.path), stat.st_size, stat.st_mtime_ns]
        for record, stat in zip(records, stats, strict=True)
    ]
    text = json.dumps([_CACHE_VERSION, size, files])
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"


def read_array(kept: Path, *, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array that ``write_array`` kept, or None if there is none or the file is damaged."""
    try:
        # Copy on write: torch wants arrays it may write to, and the file must not change.
        images = np.load(kept, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def write_array(kept: Path, images: NDArray[np.uint8]) -> None:
    """Keep an array in a cache, for its owner's eyes only.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, images)
            os.replace(name, kept)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise DataError(
            f"{kept.parent}: the image cache cannot be written: {error.strerror}",
            hint="free some space, name another folder, or do without a cache",
        ) from None
