from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from ppfl.errors import DataError, UnreadableImageError
from ppfl.learning.images import ImageSet, load_images, pixel_sums, read_grey
from ppfl.learning.sources import ImageRecord

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def grey(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    return np.asarray(read_grey(path, size=size).picture)


def save(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


def records_in(folder: Path, count: int = 3) -> list[ImageRecord]:
    paths = [save(Image.fromarray(RAMP // (i + 1)), folder / f"{i}.png") for i in range(count)]
    return [ImageRecord(path, "ab"[i % 2], f"g{i}") for i, path in enumerate(paths)]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_eight_bit_grey_stays_as_it_is_however_stored(tmp_path: Path, mode: str) -> None:
    path = save(Image.fromarray(RAMP).convert(mode), tmp_path / "a.png")
    np.testing.assert_array_equal(grey(path), RAMP)
    assert read_grey(path).stored_mode == mode


def test_colours_become_luminance_and_bits_black_and_white(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (4, 4), (255, 0, 0)), tmp_path / "red.png")
    assert set(grey(path).flat) == {76}
    path = save(Image.new("1", (4, 4), 1), tmp_path / "white.png")
    assert set(grey(path).flat) == {255}


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.fromarray(RAMP).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(grey(tmp_path / "a.png"), RAMP)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_deep_grey_is_scaled_by_the_bits_it_uses(tmp_path: Path, bits: int, suffix: str) -> None:
    full = 2**bits - 1
    levels = np.linspace(0, full, 256).round().astype(np.uint16).reshape(16, 16)
    path = save(Image.fromarray(levels), tmp_path / f"a{suffix}")
    assert read_grey(path).stored_mode in {"I", "I;16"}
    np.testing.assert_array_equal(grey(path), RAMP)


def test_big_endian_deep_grey_and_white_is_zero(tmp_path: Path) -> None:
    levels = RAMP.astype(np.uint16) * 257
    big = Image.frombytes("I;16B", (16, 16), levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(grey(save(big, tmp_path / "big.tif")), RAMP)
    Image.fromarray(levels).save(tmp_path / "inverse.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(grey(tmp_path / "inverse.tif"), 255 - RAMP)
    black = save(Image.fromarray(levels * 0), tmp_path / "black.png")
    assert not grey(black).any()


def test_the_exif_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    wide = np.zeros((8, 16), dtype=np.uint8)
    wide[:, :8] = 255
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    upright = grey(tmp_path / "a.png")
    assert upright.shape == (16, 8)
    assert upright[:8].all()
    assert not upright[8:].any()


def test_resizing_keeps_the_whole_picture_and_its_mean(tmp_path: Path) -> None:
    stripes = np.zeros((60, 90), dtype=np.uint8)
    stripes[:, ::2] = 200
    resized = grey(save(Image.fromarray(stripes), tmp_path / "a.png"), size=30)
    assert resized.shape == (30, 30)
    assert np.abs(resized.astype(int) - 100).max() < 40  # no aliasing to all black or white
    assert resized.mean() == pytest.approx(100, abs=3)


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "empty.png"), (b"no image at all", "text.jpg"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "e.png")],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"{name}: not a readable image") as caught:
        read_grey(tmp_path / name)
    assert "ppfl data check" in caught.value.hint


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "pgm", "png", "tif", "webp"])
def test_truncated_and_missing_files(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    assert grey(path).shape == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError, match=f"a.{suffix}"):
        read_grey(path)
    with pytest.raises(UnreadableImageError, match="gone"):
        read_grey(tmp_path / f"gone.{suffix}")


def test_pixels_without_a_known_black_and_white(tmp_path: Path) -> None:
    path = save(Image.fromarray(RAMP.astype(np.float32)), tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="floating-point"):
        read_grey(path)
    path = save(Image.fromarray(RAMP.astype(np.int32) - 1000), tmp_path / "negative.tif")
    with pytest.raises(UnreadableImageError, match="-1000, below 0"):
        read_grey(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 200])
def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = save(Image.fromarray(RAMP), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImageError, match=r"bomb\.png.*limit"):
        read_grey(path)


def test_images_come_in_the_order_of_the_records(tmp_path: Path) -> None:
    records = records_in(tmp_path)
    done: list[int] = []
    loaded = load_images(records, classes=["b", "a"], size=16, progress=done.append)
    assert loaded.images.dtype == np.uint8
    assert loaded.labels.tolist() == [1, 0, 1]
    assert loaded.labels.dtype == np.int64
    np.testing.assert_array_equal(loaded.images, [RAMP, RAMP // 2, RAMP // 3])
    assert done == [1, 2, 3]


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
    assert again.labels.tolist() == [1, 0, 1]
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
    np.testing.assert_array_equal(changed.images[0], 255 - RAMP)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["empty", "half", "text", "shape", "pickle"])
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
        kept.write_bytes({"empty": b"", "half": sound[: len(sound) // 2], "text": b"x"}[damage])
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
