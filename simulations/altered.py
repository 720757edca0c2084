"""Hospitals that a simulation makes worse than they are: wrong labels, another scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ppfl.files import replace_private
from ppfl.learning.sources import ImageRecord
from ppfl.learning.splits import split_by_group
from ppfl.settings import Section, Study
from ppfl.settings.study import Name
from ppfl.xray.pictures import read_grey, to_png


class AlteredHospital(Section):
    """What is done to one hospital's X-rays, and to its labels."""

    name: Name
    flipped_labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of its training images that are given another class; those it "
        "validates and tests on keep theirs",
    )
    gamma: float = Field(1.0, gt=0, le=10, description="of its scanner; 1: as it is")
    contrast: float = Field(
        1.0, gt=0, le=10, description="of its scanner, about the middle grey; 1: as it is"
    )


def alter(
    records: Sequence[ImageRecord], how: AlteredHospital, study: Study, place: Path
) -> list[ImageRecord]:
    """A hospital's records after the change; the pictures of another scanner lie in ``place``.

    The same study gives the same. A changed picture has the study's size and belongs to the same
    patient, so that it stays on the same side of the split.

    Raises:
        UnreadableImageError: a picture cannot be read.
        DataError: there are no records.
        OSError: a picture cannot be written.
    """
    changed = _flip_labels(records, how, study)
    if how.gamma == how.contrast == 1:
        return changed
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    moved = []
    for number, record in enumerate(changed):
        pixels = np.asarray(read_grey(record.path, size=study.images.size).picture)
        path = place / f"{number:06}.png"
        replace_private(path, [to_png(rescan(pixels, gamma=how.gamma, contrast=how.contrast))])
        moved.append(replace(record, path=path))
    return moved


def rescan(pixels: NDArray[np.uint8], *, gamma: float, contrast: float) -> NDArray[np.uint8]:
    """8-bit grey as a scanner of another gamma and contrast, both above 0, would show it."""
    levels = np.linspace(0, 1, 256) ** gamma
    levels = np.clip(0.5 + contrast * (levels - 0.5), 0, 1)
    table: NDArray[np.uint8] = np.rint(255 * levels).astype(np.uint8)
    return table[pixels]


def _flip_labels(
    records: Sequence[ImageRecord], how: AlteredHospital, study: Study
) -> list[ImageRecord]:
    options = study.images
    split = split_by_group(
        records, validation=options.validation, test=options.test, seed=study.seed
    )
    generator = np.random.default_rng(study.seed)
    count = round(how.flipped_labels * len(split.train))
    chosen = generator.permutation(len(split.train))[:count]
    flipped = {}
    for record in (split.train[i] for i in sorted(chosen)):
        others = [name for name in study.classes if name != record.label]
        flipped[record.path] = others[generator.integers(len(others))]
    return [replace(r, label=flipped.get(r.path, r.label)) for r in records]
