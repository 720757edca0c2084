"""`ppfl shortcuts` on phantoms with a hospital's mark in a corner, and without one."""

from __future__ import annotations

import csv
import importlib.util
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from ppfl.errors import DataError, ModelError, SettingsError, StudyMismatchError
from ppfl.learning.files import parameters_sha256, save_model
from ppfl.learning.grad_cam import grad_cam
from ppfl.learning.images import order_images
from ppfl.learning.models import build_model, get_parameters
from ppfl.learning.sources import read_records
from ppfl.learning.splits import split_by_group
from ppfl.learning.study_model import StudyModel
from ppfl.learning.training import train_locally
from ppfl.settings import Study, TrainingOptions, check_settings
from ppfl.xray import write_phantoms
from simulations.main import _app
from simulations.shortcuts.command import _notes
from simulations.shortcuts.hold_out import HeldOut
from simulations.shortcuts.measure import (
    Seen,
    auroc_by_site,
    compare_views,
    look_at,
    probe_sites,
    sensitivity_by_site,
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
    return read_sides(
        folder, classes=_CLASSES, size=_SIZE, equalise="none", study=None, lungs=lungs, seed=1
    )


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
        assert row.accuracy.value > 0.85
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
    known = np.array([str(site) == "east" for site in sides[1].sites])
    np.testing.assert_array_equal(sides[1].masked, known)
    centre, outside = views["centre black"], views["lungs known: lungs black"]
    assert outside.images == views["lungs known: only lungs"].images != centre.images
    for view in (centre, outside):
        if marked:
            assert view.auroc is not None
            assert view.auroc > 0.95
            assert view.probe.low > 0.9
        else:
            assert view.auroc is not None
            assert view.auroc < 0.7
            assert view.probe.low < 0.5
    if marked:
        only_lungs = views["lungs known: only lungs"]
        assert only_lungs.auroc is not None
        assert only_lungs.auroc < 0.75  # there is a finding, but it was never needed


def test_grad_cam_points_at_what_the_answer_rests_on() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 1, 8, stride=8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1, 2),
    )
    with torch.no_grad():  # class 1 is the brighter, wherever that is
        for parameter, value in zip(network.parameters(), (1.0, 0.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
        network[4].weight[1] = 1
    model = StudyModel(network, "bright", _CLASSES, _SIZE, (0.0, 1.0))
    images = np.zeros((2, _SIZE, _SIZE), np.uint8)
    images[0, :16, :16] = images[1, 24:40, 24:40] = 255  # the corner, the middle
    lungs = np.zeros(images.shape, np.bool_)
    lungs[:, 16:48, 16:48] = True
    names = np.array(["a", "b"])
    seen = look_at(model, Side(images, np.array([0, 1]), names, names, lungs))
    assert seen.predicted.tolist() == [1, 1]
    rows = share_inside_lungs(model, seen)
    assert [(row.name, row.images, row.area) for row in rows] == [
        ("all classes", 2, 0.25),
        ("Effusion", 1, 0.25),
        ("Normal", 1, 0.25),
    ]
    assert rows[1].inside < 0.05
    assert rows[2].inside > 0.95


def test_grad_cam_needs_a_network_that_makes_maps() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * _SIZE * _SIZE, 2))
    model = StudyModel(flat, "flat", _CLASSES, _SIZE, (0.0, 1.0))
    with pytest.raises(ModelError, match="flat makes no maps"):
        grad_cam(model, np.zeros((1, _SIZE, _SIZE), np.uint8), np.array([0]))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a model, its study and the start of its training, and X-rays."""
    _collection(tmp_path / "xrays", marked="east")
    model = _untrained()
    start = get_parameters(model.network)
    save_model(tmp_path / "start.safetensors", start, metadata={})
    study = _study(parameters_sha256(start))
    (tmp_path / "study.toml").write_text(study.to_toml())
    model.write(tmp_path / "model.safetensors", study=study.fingerprint())
    return tmp_path


def _study(start_sha256: str) -> Study:
    table = {
        "name": "marked",
        "classes": list(_CLASSES),
        "images": {"size": _SIZE, "normalisation": [0.5, 0.5], "test": 0.4, "validation": 0.1},
        "model": {"architecture": _NAME, "start_sha256": start_sha256},
        "training": {"rounds": 1},
        "federation": {"sites": ["one", "two"]},
    }
    return check_settings(table, Study, where="test")


def _told(folder: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(
        _app,
        [
            *("shortcuts", "--model", str(folder / "model.safetensors"), "--json"),
            *("--data", str(folder / "xrays"), "--out", str(folder / "out"), *arguments),
        ],
        catch_exceptions=False,
    )
    return json.loads(result.stdout)


@pytest.mark.slow
def test_the_command_tests_the_studys_test_images_and_keeps_its_pages_private(
    trained: Path,
) -> None:
    arguments = ("--study", str(trained / "study.toml"), "--hold-out")
    told = _told(trained, *arguments)
    study = Study.read(trained / "study.toml")
    records = read_records(trained / "xrays", classes=_CLASSES)
    split = split_by_group(records, validation=0.1, test=0.4, seed=study.seed)
    assert told["test_images"] == len(split.test)
    assert told["fit_images"] == len(records) - len(split.test)
    assert told["with_lungs"] == 0
    assert "where the lungs are" in told["notes"][0]
    assert [site["site"] for site in told["sites"]] == ["east", "west"]
    assert all(0 <= site["held_out"] <= 1 for site in told["sites"])
    for name in ("shortcuts.html", "shortcuts.json", "grad-cam.png"):
        assert stat.S_IMODE((trained / "out" / name).stat().st_mode) == 0o600
    assert json.loads((trained / "out" / "shortcuts.json").read_text()) == told
    page = (trained / "out" / "shortcuts.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    models = {p: p.stat().st_mtime_ns for p in (trained / "out").glob("without-*")}
    assert len(models) == 2
    assert _told(trained, *arguments) == told  # what was trained is not trained again
    assert {p: p.stat().st_mtime_ns for p in models} == models


def _grey_side(sites: dict[str, tuple[int, ...]]) -> Side:
    """Ten images of each of the classes of a hospital."""
    rows = [(site, label) for site, labels in sites.items() for label in labels for _ in range(10)]
    labels = np.array([label for _, label in rows])
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), _SIZE, _SIZE))
    groups = np.arange(len(rows)).astype(str)
    names = np.array([site for site, _ in rows])
    return Side(noise.astype(np.uint8), labels, groups, names, np.zeros_like(noise, np.bool_))


def test_without_a_hospital_a_study_is_trained_as_it_says(tmp_path: Path) -> None:
    network = build_model(_NAME, classes=2, seed=1, group_norm=True)
    start = get_parameters(network)
    save_model(tmp_path / "start.safetensors", start, metadata={})
    table = _study(parameters_sha256(start)).model_dump(mode="json")
    table["model"] |= {"batch_norm": "group", "train_from": "stage4"}
    table["training"] |= {"optimiser": "scaffold"}
    held_out = HeldOut(
        tmp_path / "out",
        model=StudyModel(network, _NAME, _CLASSES, _SIZE, (0.5, 0.5), group_norm=True),
        study=check_settings(table, Study, where="test"),
        start=tmp_path / "start.safetensors",
        fit=_grey_side({"a": (0, 1), "b": (0,)}),
        talk=Console(stderr=True),
    )
    model = held_out.without("a")
    trained = get_parameters(model.network)
    changed = {name for name in start if not np.array_equal(start[name], trained[name])}
    assert changed
    assert all(name.startswith(("stage4", "conv5", "fc")) for name in changed)


def test_a_model_without_a_hospital_knows_nothing_of_it(tmp_path: Path) -> None:
    """Neither its pixels' mean, nor from a table in which the hospital had another name."""
    network = build_model(_NAME, classes=2, seed=1)
    start = get_parameters(network)
    save_model(tmp_path / "start.safetensors", start, metadata={})
    table = _study(parameters_sha256(start)).model_dump(mode="json")
    table["images"] |= {"normalisation": "federation"}
    bright = _grey_side({"a": (0, 1), "b": (0, 1)})
    bright.images[bright.sites == "b"] = 255

    def without(site: str, side: Side) -> StudyModel:
        return HeldOut(
            tmp_path / "out",
            model=StudyModel(network, _NAME, _CLASSES, _SIZE, (0.7, 0.3)),
            study=check_settings(table, Study, where="test"),
            start=tmp_path / "start.safetensors",
            fit=side,
            talk=Console(stderr=True),
        ).without(site)

    mean, _ = without("b", bright).normalisation
    assert mean == pytest.approx(0.5, abs=0.01)  # of the noise at a
    swapped = replace(bright, sites=np.where(bright.sites == "a", "b", "a"))
    mean, _ = without("b", swapped).normalisation
    assert mean == pytest.approx(1)


def test_at_a_hospital_of_one_class_sensitivity_is_told() -> None:
    model = _untrained()
    with torch.no_grad():
        model.network.fc.weight.zero_()  # type: ignore[union-attr, operator]
        model.network.fc.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr, operator]
    side = _grey_side({"a": (0, 1), "b": (0,), "c": (1,), "": (1,)})
    seen = look_at(model, side)
    asked: list[str] = []

    def without(site: str) -> StudyModel:
        asked.append(site)
        return model

    first, second = sensitivity_by_site(seen, seen, _CLASSES, without)
    assert (first.site, first.label, first.images) == ("b", "Effusion", 10)
    assert (first.elsewhere, first.model.value) == (10, 1)
    assert first.held_out == first.model
    assert (second.site, second.label, second.model.value) == ("c", "Normal", 0)
    assert second.elsewhere == 20
    assert asked == ["b", "c"]
    few = seen[side.sites == "b"][np.arange(10) < 9]
    assert not list(sensitivity_by_site(few, seen, _CLASSES, None))


def test_a_class_of_few_patients_at_a_hospital_is_none_of_its_figures() -> None:
    counts = {"a": (10, 10, 1), "b": (12, 3, 0), "c": (9, 0, 9)}
    rows = [
        (site, c) for site, each in counts.items() for c, n in enumerate(each) for _ in range(n)
    ]
    labels = np.array([label for _, label in rows])
    black = np.zeros((len(rows), 8, 8), np.uint8)
    groups = np.arange(len(rows)).astype(str)
    side = Side(black, labels, groups, np.array([site for site, _ in rows]), black > 0)
    told = np.eye(3, dtype=np.float32)[np.where(labels == 2, 0, labels)]  # C is never found
    seen, names = Seen(side, told, np.zeros((len(rows), 1), np.float32)), ("A", "B", "C")
    (macro,) = auroc_by_site(seen, names, None)
    assert (macro.site, macro.images) == ("a", {"A": 10, "B": 10, "C": 1})
    assert macro.auroc == pytest.approx((21 / 22 + 1) / 2)  # of A, which C is taken for, and of B
    (one,) = sensitivity_by_site(seen, seen, names, None)
    assert (one.site, one.label, one.images, one.elsewhere) == ("b", "A", 12, 19)
    assert one.model.value == 1


def test_a_single_hospital_cannot_be_held_out(tmp_path: Path) -> None:
    model = _untrained()
    start = get_parameters(model.network)
    save_model(tmp_path / "start.safetensors", start, metadata={})
    for site in ("a", ""):
        with pytest.raises(DataError, match="no two hospitals are known"):
            HeldOut(
                tmp_path / "out",
                model=model,
                study=_study(parameters_sha256(start)),
                start=tmp_path / "start.safetensors",
                fit=_grey_side({site: (0, 1)}),
                talk=Console(stderr=True),
            )


def test_a_hospital_of_too_few_patients_is_named() -> None:
    (note,) = _notes(lungs_known=True, sites_known=True, within=1, untold=["a", "b"])
    assert note.startswith("Of no class are there 10 tested patients at a, b")


def test_a_model_without_its_study_is_not_tested_on_what_it_may_have_seen(trained: Path) -> None:
    study = ("--study", str(trained / "study.toml"))
    for arguments in ((), ("--unseen", *study)):
        with pytest.raises(SettingsError, match="either --study FILE or --unseen"):
            _told(trained, *arguments)
    with pytest.raises(SettingsError, match="--hold-out trains as the study does"):
        _told(trained, "--unseen", "--hold-out")
    save_model(trained / "start.safetensors", {"a": np.zeros(1, np.float32)}, metadata={})
    with pytest.raises(ModelError, match="not what the study starts from"):
        _told(trained, *study, "--hold-out")
    (trained / "study.toml").write_text(_study("").to_toml())
    with pytest.raises(StudyMismatchError, match="not the study that"):
        _told(trained, *study)


def test_too_few_xrays_and_missing_packages_are_said(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = trained / "xrays" / "index.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match="1 X-rays are too few"):
        _told(trained, "--unseen")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="needs the package sklearn"):
        _told(trained, "--unseen")
