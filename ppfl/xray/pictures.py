"""Any picture file as upright grey, black at 0: the one place where files become pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ppfl.errors import UnreadableImageError
from ppfl.xray.dicom import DicomFacts, names_dicom, read_dicom

# Pillow would hand an EPS file, whatever its name says, to Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BITS = "Significant bits"
"""Of `to_deep_png`: the text in a PNG that says how many of 16 bits were measured."""
_DEEP = {str(bits) for bits in range(9, 17)}


Equalise = Literal["none", "histogram"]
"""What is done to a picture's grey levels before it is resized."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Grey (height, width) in [0, 2**bits), ``bits`` in [8, 16].

    ``stored_mode`` is pillow's name for the pixels in the file, or "DICOM"; ``dicom`` is what a
    DICOM file tells beside its pixels.
    """

    pixels: NDArray[np.uint16]
    bits: int
    stored_mode: str
    dicom: DicomFacts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GreyImage:
    """One upright 8-bit grey picture; the rest as in `Picture`."""

    picture: Image.Image
    stored_mode: str
    dicom: DicomFacts | None = None


def read_pixels(path: Path, *, data: bytes | None = None) -> Picture:
    """One image file in all its shades, turned as its EXIF says.

    Colours become luminance (ITU-R 601). ``bits`` are those that the file's brightest pixel needs,
    at least 8, because such files do not say how many were measured; deeper ones than 16 are
    scaled to 16. A PNG of `to_deep_png` says, and so does a DICOM file, which is shown as
    `read_dicom` describes. ``data`` is what the file holds, if it was read already.

    Raises:
        UnreadableImageError: the file is missing, damaged, of another kind, has pixels that are
            negative or floating-point, or more of them than pillow deems safe; or as `read_dicom`.
    """
    grey = _decode(path, data)
    bits = min(grey.bits, 16)
    return Picture(grey.at(bits).astype(np.uint16), bits, grey.stored_mode, grey.dicom)


def read_grey(path: Path, *, size: int | None = None, equalise: Equalise = "none") -> GreyImage:
    """One image file as 8-bit grey: `read_pixels` scaled; ``size`` pixels square if given.

    12-bit values fill [0, 255] although stored in 16 bits, and values that fit 8 bits stay as they
    are. The sides are resized apart, as the published collections were (299 × 299 from any shape):
    what a network sees of a chest is then always the whole of it. Resizing is bilinear with
    antialiasing, torchvision's default. With ``equalise`` "histogram" the 8-bit levels are spread
    before that, so that each is as common as the next.

    Raises:
        UnreadableImageError: as `read_pixels`.
    """
    grey = _decode(path)
    return GreyImage(grey.shrink(size, equalise), grey.stored_mode, grey.dicom)


def shrink(
    pixels: NDArray[np.uint16],
    *,
    bits: int,
    size: int | None = None,
    equalise: Equalise = "none",
) -> Image.Image:
    """The 8-bit picture that `read_grey` makes of a file with these pixels."""
    return _Grey(pixels, bits, "").shrink(size, equalise)


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (height, width) 8-bit grey."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()


def to_deep_png(pixels: NDArray[np.uint16], *, bits: int) -> bytes:
    """A PNG file of (height, width) grey in [0, 2**bits), which `read_pixels` reads back exactly.

    More than 8 bits fill the range of 16, so that viewers show them as bright as they are.
    """
    file, told = io.BytesIO(), PngInfo()
    if bits == 8:
        Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
    else:
        told.add_text(_BITS, str(bits))
        filled = pixels << (16 - bits) | pixels >> (2 * bits - 16)
        Image.fromarray(filled).save(file, format="PNG", pnginfo=told)
    return file.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class _Grey:
    """Integers (height, width) in [0, 2**bits), and whether 0 is white."""

    levels: NDArray[Any]
    bits: int
    stored_mode: str
    white_is_zero: bool = False
    dicom: DicomFacts | None = None

    def at(self, bits: int) -> NDArray[Any]:
        """The levels, black at 0, scaled to ``bits``."""
        full = 2**bits - 1
        levels = self.levels
        if self.bits != bits:
            levels = np.rint(levels * np.float32(full / (2**self.bits - 1)))
        return full - levels if self.white_is_zero else levels

    def shrink(self, size: int | None, equalise: Equalise) -> Image.Image:
        """At 8 bits, equalised if asked for, and ``size`` pixels square if given."""
        picture = Image.fromarray(self.at(8).astype(np.uint8))
        if equalise == "histogram":
            picture = ImageOps.equalize(picture)
        if size and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        return picture


def _decode(path: Path, data: bytes | None = None) -> _Grey:
    if names_dicom(path):
        radiograph = read_dicom(path, data=data)
        return _Grey(radiograph.pixels, radiograph.bits, "DICOM", dicom=radiograph.facts)
    try:
        with Image.open(path if data is None else io.BytesIO(data), formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"{image.width} × {image.height} pixels, the limit is {limit}")
            return _grey(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(
            f"{path}: not a readable image: {reason}",
            hint="`ppfl data check` lists every such file; take them out or export them anew",
        ) from error


def _grey(image: Image.Image) -> _Grey:
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels, whose black and white are unknown")
    if not upright.mode.startswith("I"):
        if upright.mode == "P":  # By way of RGBA: pillow warns of palettes with transparency.
            upright = upright.convert("RGBA")
        return _Grey(np.asarray(upright.convert("L")), 8, image.mode)
    levels = np.asarray(upright)
    if image.mode == "I;16" and (told := image.info.get(_BITS)) in _DEEP:
        return _Grey(levels >> (16 - int(told)), int(told), image.mode)
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 0:
        raise ValueError(f"pixels from {lowest}, below 0")
    # Pillow turns white-is-zero TIFFs round only when they have 8 bits.
    inverse = getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    return _Grey(levels, max(8, highest.bit_length()), image.mode, white_is_zero=inverse)
