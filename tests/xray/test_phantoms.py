from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

from ppfl.errors import DataError
from ppfl.xray.phantoms import PHANTOM_CLASSES, Scanner, draw_phantom, write_phantoms

COUNTS = {"Normal": 12, "Effusion": 5, "Nodule": 3, "Infiltrate": 0}


def phantom(
    finding: str = "Normal", seed: int = 1, size: int = 64, scanner: Scanner | None = None
) -> NDArray[np.uint8]:
    return draw_phantom(
        finding, size=size, generator=default_rng(seed), scanner=scanner or Scanner()
    )


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.parametrize("finding", PHANTOM_CLASSES)
@pytest.mark.parametrize("size", [64, 97, 128, 512])
def test_a_phantom_is_a_grey_square_that_uses_the_range(finding: str, size: int) -> None:
    picture = phantom(finding, size=size)
    assert picture.shape == (size, size)
    assert picture.dtype == np.uint8
    chest = picture[size // 8 :]
    assert chest.min() < 60
    assert chest.max() > 190


@given(seed=st.integers(0, 2**32 - 1), finding=st.sampled_from(PHANTOM_CLASSES))
@settings(max_examples=20)
def test_equal_generators_draw_equal_pictures(seed: int, finding: str) -> None:
    assert np.array_equal(phantom(finding, seed), phantom(finding, seed))


def test_a_generator_draws_one_patient_after_the_other() -> None:
    generator = default_rng(1)
    one, other = (draw_phantom("Normal", size=64, generator=generator) for _ in range(2))
    assert difference(one, other) > 5


def test_the_lungs_are_darker_than_the_heart_and_the_heart_lies_on_the_right() -> None:
    mean = np.mean([phantom(seed=seed) for seed in range(20)], axis=0)
    right_lung, left_lung, heart = mean[24:32, 14:24], mean[24:32, 40:50], mean[36:44, 36:42]
    assert max(right_lung.mean(), left_lung.mean()) + 50 < heart.mean()
    assert mean[36:44, 22:28].mean() + 20 < heart.mean()


@pytest.mark.parametrize("finding", PHANTOM_CLASSES[1:])
def test_a_finding_whitens_one_lung_of_the_same_patient(finding: str) -> None:
    changes = [phantom(finding, seed).astype(float) - phantom(seed=seed) for seed in range(8)]
    assert all(change.max() > 40 for change in changes)
    halves = np.array([[np.abs(c[:, :32]).sum(), np.abs(c[:, 32:]).sum()] for c in changes])
    assert len(set(halves.argmax(1))) == 2, "the side must vary"


def test_size_changes_the_grain_but_not_the_patient() -> None:
    quiet = Scanner(noise=0)
    small, large = phantom(size=64, scanner=quiet), phantom(size=128, scanner=quiet)
    halved = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert difference(small[8:], halved[8:].round().astype(np.uint8)) < 4


@pytest.mark.parametrize(
    "scanner",
    [
        Scanner(gamma=1.5),
        Scanner(contrast=0.6),
        Scanner(brightness=0.1),
        Scanner(noise=9),
        Scanner(blur=0.02),
        Scanner(blur=0),
        Scanner(vignetting=0.5),
    ],
)
def test_every_setting_of_a_scanner_shows(scanner: Scanner) -> None:
    assert difference(phantom(size=256, scanner=scanner), phantom(size=256)) > 0.2


def test_more_noise_is_more_grain() -> None:
    grain = [
        np.diff(phantom(scanner=Scanner(noise=noise))[8:].astype(float)).std() for noise in (0, 20)
    ]
    assert grain[0] + 5 < grain[1]


@pytest.mark.parametrize("size", [64, 256])
def test_the_mark_is_the_same_in_every_class(size: int) -> None:
    scale = max(1, size // 128)
    corners = [
        phantom(f, seed, size)[: 7 * scale, : 37 * scale] for seed, f in enumerate(PHANTOM_CLASSES)
    ]
    assert set(np.unique(corners[0])) == {0, 255}
    assert all(np.array_equal(corners[0], corner) for corner in corners)


def test_mean_and_spread_of_the_pixels_do_not_tell_the_class() -> None:
    truth = np.arange(400) % len(PHANTOM_CLASSES)
    generator = default_rng(7)
    pixels = np.stack(
        [draw_phantom(PHANTOM_CLASSES[k], size=64, generator=generator).ravel() for k in truth]
    ).astype(float)
    inputs = np.column_stack([np.ones(len(truth)), pixels.mean(1), pixels.std(1)])
    fit, held_out = slice(0, 200), slice(200, 400)
    weights = np.linalg.lstsq(inputs[fit], np.eye(len(PHANTOM_CLASSES))[truth[fit]], rcond=None)[0]
    accuracy = np.mean((inputs[held_out] @ weights).argmax(1) == truth[held_out])
    assert accuracy < 0.4


def test_an_unknown_finding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'Fracture'.*Normal, Effusion, Nodule, Infiltrate"):
        phantom("Fracture")


def test_a_size_too_small_for_the_mark_is_refused() -> None:
    with pytest.raises(DataError, match="63 pixels: at least 64"):
        phantom(size=63)


def test_the_tree_holds_as_many_pictures_as_asked_for(tmp_path: Path) -> None:
    write_phantoms(tmp_path, counts=COUNTS, size=64, seed=3)
    names = written(tmp_path)
    assert Counter(name.split("/")[0] for name in names) == {k: n for k, n in COUNTS.items() if n}
    assert "Normal/phantom_p0001_1.png" in names
    with Image.open(tmp_path / "Normal" / "phantom_p0001_1.png") as picture:
        assert picture.mode == "L"
        assert picture.size == (64, 64)
        assert "Synthetic" in picture.info["Description"]


def test_a_patient_has_one_class_and_one_or_two_pictures(tmp_path: Path) -> None:
    write_phantoms(tmp_path, counts={"Normal": 30, "Nodule": 30}, size=64, seed=3)
    names = written(tmp_path)
    patients = [re.search(r"phantom_(p\w+)_\d+", name) for name in names]
    groups = [match[1] for match in patients if match]
    assert len(groups) == 60
    assert set(Counter(groups).values()) == {1, 2}
    classes = {(group, name.split("/")[0]) for group, name in zip(groups, names, strict=True)}
    assert len(classes) == len(set(groups))


def test_two_pictures_of_a_patient_are_alike_but_not_equal(tmp_path: Path) -> None:
    write_phantoms(tmp_path, counts={"Normal": 30}, size=64, seed=3)
    seconds = sorted(tmp_path.rglob("*_2.png"))
    pictures = {path.name: np.asarray(Image.open(path)) for path in tmp_path.rglob("*.png")}
    within = [difference(pictures[p.name], pictures[p.name.replace("_2.", "_1.")]) for p in seconds]
    firsts = [picture for name, picture in pictures.items() if name.endswith("_1.png")]
    between = [difference(one, other) for one, other in pairwise(firsts)]
    assert min(within) > 2
    assert np.mean(within) < np.mean(between)


def test_a_seed_and_a_prefix_settle_every_byte(tmp_path: Path) -> None:
    runs = {"a": (3, "p"), "b": (3, "p"), "c": (4, "p"), "d": (3, "pwest")}
    for run, (seed, prefix) in runs.items():
        folder = tmp_path / run
        write_phantoms(folder, counts={"Nodule": 2}, size=64, seed=seed, patients_prefix=prefix)
    trees = {run: [p.read_bytes() for p in sorted((tmp_path / run).rglob("*.png"))] for run in runs}
    assert trees["a"] == trees["b"]
    assert not set(trees["a"]) & {*trees["c"], *trees["d"]}
    assert "Nodule/phantom_pwest0001_1.png" in written(tmp_path / "d")


def test_the_scanner_reaches_the_files(tmp_path: Path) -> None:
    for run, scanner in {"a": Scanner(), "b": Scanner(gamma=1.5)}.items():
        write_phantoms(tmp_path / run, counts={"Normal": 1}, size=64, seed=3, scanner=scanner)
    one, other = (np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png")))
    assert difference(one, other) > 5


def test_an_unknown_finding_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finding 'Fracture'"):
        write_phantoms(tmp_path, counts={"Normal": 1, "Fracture": 1}, size=64, seed=3)
    assert not written(tmp_path)


@pytest.mark.parametrize("prefix", ["", "q", "p_1", "p/../x"])
def test_a_prefix_that_hides_the_patient_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(DataError, match="patients_prefix"):
        write_phantoms(tmp_path, counts={"Normal": 1}, size=64, seed=3, patients_prefix=prefix)


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "Normal").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_phantoms(tmp_path, counts={"Normal": 1}, size=64, seed=3)
