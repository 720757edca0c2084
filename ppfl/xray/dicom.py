"""Radiographs as DICOM files: their grey as a viewer shows it, and what else they tell.

What a stored value looks like depends on nothing but the value [PS3.4, N.2.1]: modality LUT or
rescaling, then VOI LUT or window, then the sense of black. So pydicom works it out once for each
value that the bits can hold, and the picture is looked up in that table.

[PS3.x] is the DICOM standard, https://dicom.nema.org.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ppfl.errors import UnreadableImageError
from ppfl.xray.identifying import identifying_keywords

_MODALITIES = frozenset({"CR", "DX", "RF", "XA", "OT", "CT", "MR", "US", "NM", "PT", "MG"})
_VIEWS = frozenset({"PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO"})  # [PS3.3, C.8.1.2]
_COLOURS = frozenset({"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")  # in pydicom's errors: values, which may be names
_EXPORT = "`ppfl data check` lists every such file; take them out or export them anew"
_INSTALL = "pip install '.[dicom]' in a clone of ppfl brings decoders; or export it uncompressed"


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """What a DICOM file tells beside its pixels: never a value that could name anyone.

    ``modality`` and ``view`` are codes of the standard such as DX and PA, else "other" or, where
    the file says nothing, "unknown". ``burned_in`` is "yes" if the file says that its pixels hold
    text that identifies, "no", or "unknown". ``identifying`` are keywords of filled attributes
    that the Basic Profile of [PS3.15, Annex E] would empty. ``windows`` is how many windows (or
    VOI LUTs) the file offers, of which the first was used.
    """

    modality: str
    view: str
    burned_in: str
    identifying: tuple[str, ...]
    windows: int


@dataclass(frozen=True, slots=True, eq=False)
class DicomImage:
    """Grey (height, width) in [0, 2**bits), 0 black, ``bits`` in [8, 16], and what was told."""

    pixels: NDArray[np.uint16]
    bits: int
    facts: DicomFacts


def names_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by its suffix, or by its first 132 bytes."""
    if path.suffix.lower() == ".dcm":  # Old files lack the preamble.
        return True
    try:
        return is_dicom(path)
    except OSError:
        return False


def read_dicom(path: Path, *, data: bytes | None = None) -> DicomImage:
    """A DICOM radiograph in grey, as a viewer shows it when it opens the file.

    The first window or VOI LUT is applied, and fills all bits; where there is none, the darkest
    and brightest values that the stored bits can hold become black and white. Pixels that the file
    declares to be padding become black. The picture is not turned: radiographs are stored upright,
    and viewers show them so. The spacing of pixels is ignored. ``data`` is what the file holds, if
    it was read already.

    Raises:
        UnreadableImageError: the file is missing, damaged, not DICOM, holds no pixels, several
            frames, colour, more than 16 bits or bits in a place of their own, or is compressed in a
            way that no decoder installed here reads; the message names the transfer syntax then.
    """
    with _quietly():
        try:
            dataset = _read(path if data is None else io.BytesIO(data))
            stored = _stored(dataset)
            lowest, shades, bits = _shades(dataset)
            facts = _facts(dataset)
        except _RefusedError as refused:
            raise UnreadableImageError(f"{path}: {refused}", hint=refused.hint) from None
        except Exception as error:  # pydicom and its decoders raise almost anything.
            reason = " ".join(str(error).split())
            if not isinstance(error, AttributeError):  # which quotes names of attributes
                reason = _QUOTED.sub("'…'", reason)
            raise UnreadableImageError(
                f"{path}: not a readable DICOM image: {reason}", hint=_EXPORT
            ) from error
    # Values beyond the declared bits, which some files have, count as the nearest within.
    pixels = shades.take(stored.astype(np.int32) - lowest, mode="clip")
    return DicomImage(pixels, bits, facts)


def patient_group(path: Path) -> str:
    """A pseudonym of the patient of a DICOM file, or nothing if the file names none.

    It is the SHA-256 of the PatientID and its issuer, so that a patient's pictures stay together.
    Who can guess the number can check the guess: treat it as the number itself.
    """
    wanted: list[Any] = ["PatientID", "IssuerOfPatientID"]
    with _quietly():
        try:
            dataset = dcmread(path, force=True, stop_before_pixels=True, specific_tags=wanted)
            number, issuer = (str(dataset.get(keyword) or "").strip() for keyword in wanted)
        except Exception:  # Whoever reads the picture will say what is wrong with the file.
            return ""
    if not number:
        return ""
    return "dicom:" + hashlib.sha256(f"{issuer}\0{number}".encode()).hexdigest()


class _RefusedError(Exception):
    """What is wrong with a file, without its path."""

    def __init__(self, found: str, *, hint: str = _EXPORT) -> None:
        super().__init__(found)
        self.hint = hint


_PYDICOM = threading.Lock()


@contextmanager
def _quietly() -> Iterator[None]:
    """Nothing that pydicom says of a file is passed on: its warnings quote the values they mean.

    One thread at a time, because filters of warnings belong to the process. Little is lost: two
    threads decode no faster than one, which holds the interpreter.
    """
    logger = logging.getLogger("pydicom")
    with _PYDICOM, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _read(file: Path | IO[bytes]) -> Dataset:
    """The dataset, with a transfer syntax, if it holds one grey picture of at most 16 bits."""
    dataset = dcmread(file, force=True)
    if dataset.preamble is None and "PixelData" not in dataset and "SOPClassUID" not in dataset:
        raise _RefusedError("not a DICOM file")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise _RefusedError("floating-point pixels, whose black and white are unknown")
    if "PixelData" not in dataset:
        raise _RefusedError(
            "no pixels: the file was cut short, or is a DICOM document, not an image"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise _RefusedError(f"{frames} frames, where one radiograph was expected")
    if dataset.SamplesPerPixel != 1 or not _meaning(dataset).startswith("MONOCHROME"):
        told = _code(dataset, "PhotometricInterpretation", _COLOURS)
        raise _RefusedError(f"in colour ({told}), where grey was expected")
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated <= 16:
        raise _RefusedError(
            f"{dataset.BitsStored} of {dataset.BitsAllocated} bits, at most 16 needed"
        )
    high, expected = dataset.get("HighBit"), dataset.BitsStored - 1
    if high not in (None, "", expected):  # an old form of the standard; pydicom takes no heed of it
        raise _RefusedError(f"its highest bit is bit {high}, where bit {expected} was expected")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and dataset.Rows * dataset.Columns > limit:
        raise _RefusedError(f"{dataset.Columns} × {dataset.Rows} pixels, the limit is {limit}")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _meaning(dataset: Dataset) -> str:
    return str(dataset.PhotometricInterpretation).strip().upper()


def _stored(dataset: Dataset) -> NDArray[Any]:
    """The pixels (height, width) as stored, decompressed."""
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _RefusedError(
            f"its transfer syntax, {syntax.name}, cannot be read", hint="export it uncompressed"
        ) from None
    if not decoder.is_available:
        raise _RefusedError(
            f"compressed as {syntax.name}, which no decoder here reads", hint=_INSTALL
        )
    try:
        return pixel_array(dataset, index=0)
    except RuntimeError as error:
        more = any(text.startswith("pylibjpeg") for text in decoder.missing_dependencies)
        raise _RefusedError(
            f"compressed as {syntax.name}, and cannot be decoded: {' '.join(str(error).split())}",
            hint=_INSTALL if more else _EXPORT,
        ) from error


def _shades(dataset: Dataset) -> tuple[int, NDArray[np.uint16], int]:
    """The lowest value that can be stored, the shades of it and all above, and their bits."""
    stored_bits = int(dataset.BitsStored)
    lowest = -(2 ** (stored_bits - 1)) if dataset.PixelRepresentation else 0
    values = np.arange(lowest, lowest + 2**stored_bits, dtype=np.int32)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in dataset and dataset.get(keyword) in (None, ""):
            del dataset[keyword]  # empty is as good as absent, but not to pydicom
    if dataset.get("ModalityLUTSequence"):
        _widen(dataset.ModalityLUTSequence[0])
    grey = apply_modality_lut(values, dataset)
    lut = _voi_lut(dataset)
    if lut is not None:
        entries, first, lut_bits = (int(number) for number in lut.LUTDescriptor)
        bits = min(16, max(8, lut_bits))
        _widen(lut)
        offered = Dataset()
        offered.file_meta = dataset.file_meta
        offered.VOILUTSequence = [lut]
        # Clipped here, because pydicom would count on from 0 after 65535.
        last = first + (entries or 2**16) - 1
        shades = apply_voi_lut(np.rint(grey).clip(first, last).astype(np.int32), offered)
    else:
        bits = min(16, max(8, stored_bits))
        shades = apply_voi_lut(grey, _window(dataset, grey, bits=bits))
    full = 2**bits - 1
    shades = np.rint(shades).clip(0, full).astype(np.uint16)
    inverse = str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"
    # MONOCHROME1 demands INVERSE [PS3.3, C.8.11.3.1.2]: the two together turn round once.
    if inverse or _meaning(dataset) == "MONOCHROME1":
        shades = full - shades
    shades[_padding(dataset, values)] = 0
    return lowest, shades, bits


def _widen(lut: Dataset) -> None:
    """Declare a LUT's entries 16 bits wide, whatever they are.

    pydicom knows no modality LUTs of 10 to 15 bits, and loses the place in VOI LUTs of 8.
    """
    lut.LUTDescriptor = [*lut.LUTDescriptor[:2], 16]


def _voi_lut(dataset: Dataset) -> Dataset | None:
    lut = next(iter(dataset.get("VOILUTSequence") or ()), None)
    whole = lut is not None and lut.get("LUTDescriptor") and lut.get("LUTData")
    return lut if whole else None


def _window(dataset: Dataset, grey: NDArray[Any], *, bits: int) -> Dataset:
    """The first window, or one over all of ``grey``, as pydicom wants it to fill ``bits``."""
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.PixelRepresentation = 0
    window.BitsStored = bits
    center, width = _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth")
    shape = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    # Windows too narrow to mean anything are written by software that had none to write.
    if not (math.isfinite(center) and width > 0 and (width >= 1 or shape != "LINEAR")):
        darkest, brightest = float(grey.min()), float(grey.max())
        center, width = (darkest + brightest) / 2, brightest - darkest or 1.0
        shape = "LINEAR_EXACT"
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, shape
    return window


def _first(dataset: Dataset, keyword: str) -> float:
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = next(iter(value), None)
    return math.nan if value is None or value == "" else float(value)


def _padding(dataset: Dataset, values: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which of the stored values stand for no measurement."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    # Some files give a signed value as if it were unsigned, or the other way round.
    ends = sorted(
        int(values[0]) + (int(end) - int(values[0])) % values.size
        for end in (first, first if limit is None else limit)
    )
    return (values >= ends[0]) & (values <= ends[1])


def _facts(dataset: Dataset) -> DicomFacts:
    annotated = str(dataset.get("BurnedInAnnotation") or "").strip().lower()
    centers = dataset.get("WindowCenter")
    return DicomFacts(
        modality=_code(dataset, "Modality", _MODALITIES),
        view=_code(dataset, "ViewPosition", _VIEWS),
        burned_in=annotated if annotated in ("yes", "no") else "unknown",
        identifying=identifying_keywords(dataset),
        windows=(
            len(dataset.VOILUTSequence)
            if _voi_lut(dataset) is not None
            else len(centers)
            if isinstance(centers, MultiValue)
            else int(centers is not None)
        ),
    )


def _code(dataset: Dataset, keyword: str, known: frozenset[str]) -> str:
    """The code, or "other", because what stands in its place might be a name."""
    code = str(dataset.get(keyword) or "").strip().upper()
    return code if code in known else "other" if code else "unknown"
