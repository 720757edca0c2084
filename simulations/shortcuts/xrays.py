"""The X-rays a model is asked about: to fit probes on, and to test on, with masks of the lungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppfl.errors import DataError
from ppfl.learning.images import decode_images
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.learning.splits import split_by_group
from ppfl.settings import Study
from ppfl.xray.lungs import LOOK_SIZE, masks_from_cut_outs
from ppfl.xray.pictures import Equalise

_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """X-rays of one side of a split.

    ``images`` (n, size, size), ``labels`` (n,) indices into the classes, ``groups`` (n,) patients,
    ``sites`` (n,) hospitals, ``lungs`` (n, size, size) masks, empty where the lungs are unknown.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    sites: NDArray[np.str_]
    lungs: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Side:
        """Some of the X-rays."""
        return Side(
            self.images[chosen],
            self.labels[chosen],
            self.groups[chosen],
            self.sites[chosen],
            self.lungs[chosen],
        )

    @property
    def masked(self) -> NDArray[np.bool_]:
        """Whether it is known where the lungs are, (n,)."""
        return np.asarray(self.lungs.any(axis=(1, 2)))


def read_sides(
    data: Path,
    *,
    classes: Sequence[str],
    size: int,
    equalise: Equalise,
    study: Study | None,
    lungs: Path | None,
    seed: int,
) -> tuple[Side, Side]:
    """X-rays to fit probes on, and X-rays of other patients to test on.

    With a study the latter are its test images; without one, half of the patients.

    Masks come from ``lungs``, a folder of copies of X-rays on which all but the lungs is black,
    found by their grey levels, or from ``masks/NAME.png`` beside ``images/NAME.png``, as in the
    COVID-19 Radiography Database.

    Raises:
        DataError: the data cannot be read, or is too little: the first side needs two classes, the
            second an X-ray.
    """
    records = read_records(data, classes=classes)
    if study is None:
        split = split_by_group(records, validation=0.0, test=_HALF, seed=seed)
    else:
        options = study.images
        split = split_by_group(
            records, validation=options.validation, test=options.test, seed=study.seed
        )
    fit, test = [*split.train, *split.validation], list(split.test)
    if len({record.label for record in fit}) < 2 or not test:
        raise DataError(
            f"{data}: {len(records)} X-rays are too few to fit on two classes and test on others"
        )
    cut_outs = _read_cut_outs(lungs, classes) if lungs else {}
    return (
        _read_side(fit, classes, size, equalise, cut_outs),
        _read_side(test, classes, size, equalise, cut_outs),
    )


def _read_cut_outs(folder: Path, classes: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """The cut-outs of each class, (m, 256, 256)."""
    paths: dict[str, list[Path]] = {}
    for record in read_records(folder, classes=classes):
        paths.setdefault(record.label, []).append(record.path)
    return {label: decode_images(some, size=LOOK_SIZE) for label, some in paths.items()}


def _read_side(
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    size: int,
    equalise: Equalise,
    cut_outs: dict[str, NDArray[np.uint8]],
) -> Side:
    lungs = np.zeros((len(records), size, size), np.bool_)
    for i, record in enumerate(records):
        beside = record.path.parent.with_name("masks") / f"{record.path.stem}.png"
        if record.path.parent.name == "images" and beside.is_file():
            lungs[i] = decode_images([beside], size=size)[0] >= 128
    for label, some in cut_outs.items():
        places = [i for i, record in enumerate(records) if record.label == label]
        xrays = decode_images([records[i].path for i in places], size=LOOK_SIZE)
        for i, mask in zip(places, masks_from_cut_outs(xrays, some), strict=True):
            lungs[i] |= _resize(mask, size)
    return Side(
        decode_images([record.path for record in records], size=size, equalise=equalise),
        np.array([classes.index(record.label) for record in records], np.int64),
        np.array([record.group for record in records]),
        np.array([record.site for record in records]),
        lungs,
    )


def _resize(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
    return np.asarray(resized >= 128)
