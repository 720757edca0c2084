from __future__ import annotations

import os
import stat
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from ppfl.errors import DataError, UnreadableImageError
from ppfl.learning.images import ImageSet, load_images, order_images, pixel_sums
from ppfl.learning.sources import ImageRecord

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


def records_in(folder: Path, count: int = 3) -> list[ImageRecord]:
    paths = [save(Image.fromarray(RAMP // (i + 1)), folder / f"{i}.png") for i in range(count)]
    return [ImageRecord(path, "ab"[i % 2], f"g{i}") for i, path in enumerate(paths)]


def test_every_image_comes_with_its_label(tmp_path: Path) -> None:
    records = records_in(tmp_path)
    done: list[int] = []
    loaded = load_images(records, classes=["b", "a"], size=16, progress=done.append)
    assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
    pairs = zip(loaded.images, loaded.labels.tolist(), strict=True)
    found = {image.tobytes(): label for image, label in pairs}
    assert found == {RAMP.tobytes(): 1, (RAMP // 2).tobytes(): 0, (RAMP // 3).tobytes(): 1}
    assert done == [1, 2, 3]


def test_the_order_is_that_of_the_content_whatever_the_names(tmp_path: Path) -> None:
    records = records_in(tmp_path, 6)
    twin = save(Image.fromarray(RAMP), tmp_path / "twin.png")  # of 0.png, in another class
    records.append(ImageRecord(twin, "b", "g0"))
    plain = load_images(records, classes=["a", "b"], size=16)
    for cache in (tmp_path / "cache", tmp_path / "cache", None):
        other = load_images(records[::-1], classes=["a", "b"], size=16, cache=cache)
        np.testing.assert_array_equal(plain.images, other.images)
        np.testing.assert_array_equal(plain.labels, other.labels)
    order = [3, 6, 0, 1, 5, 4, 2]
    groups = [plain.groups[i] for i in order]
    mixed = order_images(plain.images[order], plain.labels[order], groups)
    np.testing.assert_array_equal(plain.images, mixed.images)
    np.testing.assert_array_equal(plain.labels, mixed.labels)


def test_equalised_images_are_others_and_have_a_cache_of_their_own(tmp_path: Path) -> None:
    dark = np.tile(RAMP // 4, (4, 4))  # of fewer pixels than levels, pillow changes none
    records = [ImageRecord(save(Image.fromarray(dark), tmp_path / "dark.png"), "a", "g")]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        plain = load_images(records, classes=["a"], size=64, cache=cache)
        spread = load_images(records, classes=["a"], size=64, equalise="histogram", cache=cache)
        np.testing.assert_array_equal(plain.images[0], dark)
        assert (spread.images.min(), spread.images.max()) == (0, 255)
        steps = np.diff(np.unique(spread.images).astype(int))
        assert set(steps.tolist()) <= {3, 4, 5}  # 64 levels, as common as each other


def test_no_records_make_an_empty_set(tmp_path: Path) -> None:
    loaded = load_images([], classes=["a"], size=16, cache=tmp_path / "cache")
    assert loaded.images.shape == (0, 16, 16)
    assert loaded.labels.shape == (0,)


def test_a_record_of_another_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class b, but the classes are a, c"):
        load_images(records_in(tmp_path), classes=["a", "c"], size=16)


def test_one_damaged_image_is_named(tmp_path: Path) -> None:
    records = records_in(tmp_path, 8)
    records[5].path.write_bytes(b"damaged")
    with pytest.raises(UnreadableImageError, match=r"5\.png"):
        load_images(records, classes=["a", "b"], size=16)


def test_the_cache_spares_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, cache = records_in(tmp_path), tmp_path / "below" / "cache"
    first = load_images(records, classes=["a", "b"], size=8, cache=cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in cache.iterdir()] == [0o600]
    assert [file.suffix for file in cache.iterdir()] == [".npy"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded although cached")

    monkeypatch.setattr("ppfl.learning.images.read_grey", refuse)
    done: list[int] = []
    again = load_images(records, classes=["b", "a"], size=8, cache=cache, progress=done.append)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(again.labels, 1 - first.labels)
    assert done == [3]
    again.images[:] = 0
    third = load_images(records, classes=["a", "b"], size=8, cache=cache)
    np.testing.assert_array_equal(first.images, third.images)


def test_a_changed_file_or_size_is_decoded_anew(tmp_path: Path) -> None:
    records, cache = records_in(tmp_path), tmp_path / "cache"
    load_images(records, classes=["a", "b"], size=8, cache=cache)
    load_images(records, classes=["a", "b"], size=16, cache=cache)
    save(Image.fromarray(255 - RAMP), records[0].path)
    os.utime(records[0].path, ns=(1, 1))
    changed = load_images(records, classes=["a", "b"], size=16, cache=cache)
    assert any(np.array_equal(image, 255 - RAMP) for image in changed.images)
    assert len(list(cache.iterdir())) == 1  # what was replaced is gone


def test_an_image_that_was_taken_out_is_gone_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, cache = records_in(tmp_path), tmp_path / "cache"

    def kept() -> list[bytes]:
        return [path.read_bytes() for path in cache.iterdir()]

    load_images(records, classes=["a", "b"], size=16, cache=cache)
    assert RAMP.tobytes() in kept()[0]
    load_images(records[1:], classes=["a", "b"], size=16, cache=cache)
    assert [RAMP.tobytes() in content for content in kept()] == [False]
    load_images([], classes=["a", "b"], size=16, cache=cache)
    assert kept() == []

    load_images(records, classes=["a", "b"], size=16, cache=cache)
    refusal = PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=refusal))
    with pytest.raises(DataError, match="cannot be emptied: Operation not permitted"):
        load_images(records[1:], classes=["a", "b"], size=16, cache=cache)


@pytest.mark.parametrize("damage", ["empty", "half", "order", "text", "shape", "pickle"])
def test_a_damaged_cache_is_rewritten(tmp_path: Path, damage: str) -> None:
    records, cache = records_in(tmp_path), tmp_path / "cache"
    first = load_images(records, classes=["a", "b"], size=8, cache=cache)
    kept = next(cache.iterdir())
    sound = kept.read_bytes()
    if damage == "shape":
        np.save(kept, np.zeros((2, 8, 8), dtype=np.uint8))
    elif damage == "pickle":
        np.save(kept, np.array([{}], dtype=object), allow_pickle=True)
    else:
        cut = {"empty": 0, "half": len(sound) // 2, "order": len(sound) - 1}
        kept.write_bytes(sound[: cut[damage]] if damage in cut else b"x")
    again = load_images(records, classes=["a", "b"], size=8, cache=cache)
    np.testing.assert_array_equal(first.images, again.images)
    assert kept.read_bytes() == sound


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_in(tmp_path)
    with pytest.raises(DataError, match="cache cannot be written"):
        load_images(records, classes=["a", "b"], size=8, cache=records[0].path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="No space left on device"):
        load_images(records, classes=["a", "b"], size=8, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cached_file_that_is_gone(tmp_path: Path) -> None:
    records = records_in(tmp_path)
    records[1].path.unlink()
    with pytest.raises(UnreadableImageError, match=r"1\.png: No such file"):
        load_images(records, classes=["a", "b"], size=8, cache=tmp_path / "cache")


@given(arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_pixel_sums_are_exact(images: NDArray[np.uint8]) -> None:
    values = [int(value) for value in images.flat]
    sums = pixel_sums(ImageSet(images, np.zeros(len(images), dtype=np.int64)))
    assert sums == (len(values), sum(values), sum(value**2 for value in values))
    assert all(type(number) is int for number in sums)


@given(st.integers(0, 255))
def test_pixel_sums_of_one_shade(shade: int) -> None:
    images = np.full((3, 300, 300), shade, dtype=np.uint8)
    sums = pixel_sums(ImageSet(images, np.zeros(3, dtype=np.int64)))
    assert sums == (270_000, 270_000 * shade, 270_000 * shade**2)
