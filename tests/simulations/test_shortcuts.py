"""`ppfl shortcuts` on phantoms with a hospital's mark in a corner, and without one."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from ppfl.errors import DataError, ModelError, SettingsError, StudyMismatchError
from ppfl.learning.models import build_model, get_parameters, parameters_sha256
from ppfl.learning.study_model import StudyModel
from ppfl.learning.files import save_model
from ppfl.learning.training import train_locally
from ppfl.learning.images import order_images
from ppfl.report import ShortcutsResult
from ppfl.settings import Study, TrainingOptions, check_settings
from ppfl.xray import write_phantoms
from simulations.main import _app
from simulations.shortcuts.measure import (
    auroc_by_site,
    compare_views,
    look_at,
    probe_sites,
    share_inside_lungs,
)
from simulations.shortcuts.xrays import Side, read_sides

_CLASSES = ("Effusion", "Normal")
_SIZE = 64
_MARK = 8  # pixels: it lies outside the centre that is blacked out
_NAME = "shufflenet_v2_x0_5"


def _collection(folder: Path, *, marked: str) -> Path:
    """Two hospitals of 100 X-rays each; a white square where ``marked`` is the site or class."""
    rows = []
    for number, site in enumerate(("east", "west")):
        place = folder / site
        counts = dict.fromkeys(_CLASSES, 50)
        write_phantoms(place, counts=counts, size=_SIZE, seed=3, patients_prefix=f"p{'ab'[number]}")
        for path in sorted(place.rglob("*.png")):
            label = path.parent.name
            if marked in (site, label):
                pixels = np.array(Image.open(path))
                pixels[2 : 2 + _MARK, 2 : 2 + _MARK] = 255
                Image.fromarray(pixels).save(path)
            rows.append([path.relative_to(folder), label, site])
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "class", "site"], *rows])
    return folder


def _sides(folder: Path, lungs: Path | None = None) -> tuple[Side, Side]:
    return read_sides(folder, classes=_CLASSES, size=_SIZE, study=None, lungs=lungs, seed=1)


def _untrained() -> StudyModel:
    network = build_model(_NAME, classes=2, seed=1)
    return StudyModel(network, _NAME, _CLASSES, _SIZE, (0.5, 0.5))


def _trained(fit: Side) -> StudyModel:
    model = _untrained()
    options = TrainingOptions(
        rounds=1, local_epochs=8, batch_size=16, learning_rate=5e-3, augmentation=False
    )
    images = order_images(fit.images, fit.labels, [str(group) for group in fit.groups])
    train_locally(
        model.network, images, options, classes=2, normalisation=(0.5, 0.5), round_number=1, seed=1
    )
    return model


def _ellipses() -> NDArray[np.bool_]:
    """About where a phantom's lungs are, (256, 256)."""
    y, x = np.mgrid[:256, :256] / 256
    left, right = (((x - c) / 0.15) ** 2 + ((y - 0.5) / 0.28) ** 2 < 1 for c in (0.32, 0.68))
    return np.asarray(left | right)


def _cut_out(collection: Path, folder: Path, *, negative: bool) -> Path:
    """Copies of the collection's X-rays but of west's, black but for the lungs, renamed."""
    for number, path in enumerate(sorted((collection / "east").rglob("*.png"))):
        large = Image.open(path).resize((256, 256), Image.Resampling.BILINEAR)
        pixels = 255 - np.asarray(large) if negative else np.asarray(large)
        place = folder / path.parent.name / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(_ellipses(), pixels, 0).astype(np.uint8)).save(place)
    return folder


def test_a_probe_finds_the_mark_of_a_hospital(tmp_path: Path) -> None:
    fit, test = (
        look_at(_untrained(), side) for side in _sides(_collection(tmp_path, marked="east"))
    )
    rows = probe_sites(fit, test, _CLASSES)
    assert [row.within for row in rows] == ["all classes", *_CLASSES]
    for row in rows:
        assert row.accuracy.value > 0.95
        assert row.more_than_chance.low > 0.2


def test_a_probe_finds_no_hospital_where_there_is_no_mark(tmp_path: Path) -> None:
    fit, test = (look_at(_untrained(), side) for side in _sides(_collection(tmp_path, marked="")))
    for row in probe_sites(fit, test, _CLASSES):
        assert row.more_than_chance.low < 0.05
        assert row.accuracy.value < 0.75


@pytest.mark.parametrize("marked", ["Effusion", ""])
def test_what_a_model_learnt_shows_when_parts_are_covered(tmp_path: Path, marked: str) -> None:
    collection = _collection(tmp_path / "xrays", marked=marked)
    sides = _sides(collection, _cut_out(collection, tmp_path / "lungs", negative=False))
    model = _trained(sides[0])
    fit, test = (look_at(model, side) for side in sides)
    views = {view.view: view for view in compare_views(model, fit, test)}
    whole, centre = views["whole"], views["centre black"]
    print(marked, *views.values(), *share_inside_lungs(model, test), sep="\n")
    shares = share_inside_lungs(model, test)[0]
