from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ppfl.errors import UnreadableImageError
from ppfl.xray.pictures import read_grey, read_pixels, shrink, to_deep_png

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def grey(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    return np.asarray(read_grey(path, size=size).picture)


def save(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


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


@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (11, 11), (16, 16), (16, 20)])
def test_all_shades_of_deep_grey(tmp_path: Path, bits: int, stored: int) -> None:
    levels = np.linspace(0, 2**stored - 1, 4096).round().astype(np.int32).reshape(64, 64)
    path = save(Image.fromarray(levels), tmp_path / "a.tif")
    picture = read_pixels(path)
    assert (picture.bits, picture.pixels.dtype, picture.dicom) == (bits, np.uint16, None)
    expected = levels if bits == stored else np.rint(levels * (65535 / (2**stored - 1)))
    np.testing.assert_array_equal(picture.pixels, expected)


def test_all_shades_of_eight_bits_and_of_white_is_zero(tmp_path: Path) -> None:
    picture = read_pixels(save(Image.fromarray(RAMP), tmp_path / "a.png"))
    assert (picture.bits, picture.stored_mode) == (8, "L")
    np.testing.assert_array_equal(picture.pixels, RAMP)
    levels = RAMP.astype(np.uint16) * 257
    Image.fromarray(levels).save(tmp_path / "inverse.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_pixels(tmp_path / "inverse.tif").pixels, 65535 - levels)


@pytest.mark.parametrize("bits", [8, 9, 12, 16])
def test_a_dim_picture_of_any_depth_is_read_back_exactly(tmp_path: Path, bits: int) -> None:
    pixels = np.arange(2**bits // 3, dtype=np.uint16).reshape(1, -1)
    path = tmp_path / "a.png"
    path.write_bytes(to_deep_png(pixels, bits=bits))
    back = read_pixels(path)
    assert back.bits == bits
    np.testing.assert_array_equal(back.pixels, pixels)
    np.testing.assert_array_equal(grey(path), np.asarray(shrink(pixels, bits=bits)))
    with Image.open(path) as seen:  # by any other program, as bright as it was
        brightest = float(np.asarray(seen).max()) / (255 if bits == 8 else 65535)
    assert brightest == pytest.approx(pixels.max() / (2**bits - 1), abs=1e-4)


def test_a_text_that_says_nonsense_about_depth_is_passed_over(tmp_path: Path) -> None:
    deep, told = np.array([[0, 4095]], np.uint16), PngInfo()
    told.add_text("Significant bits", "17")
    Image.fromarray(deep).save(tmp_path / "a.png", pnginfo=told)
    assert read_pixels(tmp_path / "a.png").bits == 12
