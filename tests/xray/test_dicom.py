from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from ppfl.errors import UnreadableImageError
from ppfl.xray.dicom import names_dicom, patient_group, read_dicom
from ppfl.xray.identifying import IDENTIFYING, PRIVATE
from ppfl.xray.pictures import read_grey, read_pixels

REAL = Path(__file__).parents[2] / ".." / "shared" / "dicom"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def radiograph(pixels: NDArray[Any] = RAMP, *, bits: int = 12, **attributes: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = "1.2.3"
    data.Modality = "CR"
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SamplesPerPixel = 1
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with these is wrong on purpose
        data.save_as(path, enforce_file_format=True)
    return path


def lut(data: NDArray[Any], *, first: int = 0, bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data) % 65536, first, bits])
    item.add_new("LUTData", "OW", data.astype("<u2").tobytes())
    return item


def shown(folder: Path, data: Dataset) -> NDArray[np.uint16]:
    return read_dicom(save(data, folder / "a.dcm")).pixels


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_without_a_window_the_stored_bits_are_the_range(tmp_path: Path, bits: int) -> None:
    pixels = np.linspace(0, 2**bits - 1, 4096).round().astype(np.uint16).reshape(64, 64)
    path = save(radiograph(pixels, bits=bits), tmp_path / "a.dcm")
    picture = read_pixels(path)
    assert (picture.bits, picture.stored_mode, picture.pixels.dtype) == (bits, "DICOM", np.uint16)
    np.testing.assert_array_equal(picture.pixels, pixels)
    eight = np.rint(pixels * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(np.asarray(read_grey(path).picture), eight)
    assert read_grey(path, size=32).picture.size == (32, 32)


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = (RAMP // 16).astype(np.uint8)
    image = read_dicom(save(radiograph(pixels, bits=8), tmp_path / "a.dcm"))
    assert image.bits == 8
    np.testing.assert_array_equal(image.pixels, pixels)


def test_signed_pixels_and_rescaling_fill_the_bits(tmp_path: Path) -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    np.testing.assert_array_equal(shown(tmp_path, radiograph(signed)), RAMP)
    rescaled = radiograph(signed, RescaleSlope=2, RescaleIntercept=-7)
    np.testing.assert_array_equal(shown(tmp_path, rescaled), RAMP)
    downwards = radiograph(RAMP, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_array_equal(shown(tmp_path, downwards), 4095 - RAMP)
    flat = radiograph(RAMP, RescaleSlope=0, RescaleIntercept=5)
    assert len(np.unique(shown(tmp_path, flat))) == 1


@pytest.mark.parametrize("empty", [("RescaleSlope",), ("RescaleSlope", "RescaleIntercept")])
def test_empty_rescaling_counts_as_none(tmp_path: Path, empty: tuple[str, ...]) -> None:
    data = radiograph(**{"RescaleIntercept": -1024, **dict.fromkeys(empty, None)})
    np.testing.assert_array_equal(shown(tmp_path, data), RAMP)


def test_windows_follow_the_formulas_of_the_standard(tmp_path: Path) -> None:
    # [PS3.3, C.11.2.1.2.1 and C.11.2.1.3], with y from 0 to 4095
    x, c, w = RAMP.astype(float), 2000.0, 1000.0
    formulas = {
        None: ((x - (c - 0.5)) / (w - 1) + 0.5) * 4095,
        "LINEAR": ((x - (c - 0.5)) / (w - 1) + 0.5) * 4095,
        "LINEAR_EXACT": ((x - c) / w + 0.5) * 4095,
        "SIGMOID": 4095 / (1 + np.exp(-4 * (x - c) / w)),
    }
    for shape, y in formulas.items():
        data = radiograph(WindowCenter=c, WindowWidth=w)
        if shape:
            data.VOILUTFunction = shape
        np.testing.assert_array_equal(shown(tmp_path, data), np.rint(y.clip(0, 4095)))
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    rescaled = radiograph(signed, RescaleSlope=1, RescaleIntercept=2048)
    rescaled.WindowCenter, rescaled.WindowWidth = c, w
    np.testing.assert_array_equal(shown(tmp_path, rescaled), np.rint(formulas[None].clip(0, 4095)))


def test_the_first_of_several_windows_is_used_and_told(tmp_path: Path) -> None:
    one = shown(tmp_path, radiograph(WindowCenter=1000, WindowWidth=500))
    data = radiograph(WindowCenter=[1000, 3000], WindowWidth=[500, 20])
    np.testing.assert_array_equal(shown(tmp_path, data), one)
    assert read_dicom(tmp_path / "a.dcm").facts.windows == 2
    luts = [lut(4095 - np.arange(4096), bits=12), lut(np.arange(4096), bits=12)]
    data = radiograph(VOILUTSequence=luts, WindowCenter=[1, 2, 3], WindowWidth=[1, 2, 3])
    np.testing.assert_array_equal(shown(tmp_path, data), 4095 - RAMP)
    assert read_dicom(tmp_path / "a.dcm").facts.windows == 2


@pytest.mark.parametrize(("center", "width"), [(5, 0), (5, -3), (None, 9), (5, None), (5, 0.5)])
def test_windows_that_mean_nothing_count_as_none(tmp_path: Path, center: Any, width: Any) -> None:
    data = radiograph(WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(shown(tmp_path, data), RAMP)


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_voi_lut_gives_the_bits(tmp_path: Path, bits: int) -> None:
    table = np.linspace(0, 2**bits - 1, 1000).round()
    data = radiograph(VOILUTSequence=[lut(table, first=500, bits=bits)])
    image = read_dicom(save(data, tmp_path / "a.dcm"))
    assert image.bits == bits
    np.testing.assert_array_equal(image.pixels, table[(RAMP.astype(int) - 500).clip(0, 999)])


def test_a_voi_lut_of_signed_values(tmp_path: Path) -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    data = radiograph(signed, VOILUTSequence=[lut(np.arange(4096)[::-1], first=-2048, bits=12)])
    np.testing.assert_array_equal(shown(tmp_path, data), 4095 - RAMP)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_lut_comes_before_the_window(tmp_path: Path, bits: int) -> None:
    table = np.linspace(0, 2**bits - 1, 4096).round()
    data = radiograph(ModalityLUTSequence=[lut(table, bits=bits)])
    data.VOILUTFunction = "LINEAR_EXACT"
    data.WindowCenter, data.WindowWidth = 2 ** (bits - 1), 2 ** (bits - 2)
    y = ((table - 2 ** (bits - 1)) / 2 ** (bits - 2) + 0.5).clip(0, 1) * 4095
    np.testing.assert_array_equal(shown(tmp_path, data).ravel(), np.rint(y))


def test_black_and_white_are_turned_round_once(tmp_path: Path) -> None:
    for meaning, shape, turned in [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ]:
        data = radiograph(PhotometricInterpretation=meaning)
        if shape:
            data.PresentationLUTShape = shape
        np.testing.assert_array_equal(shown(tmp_path, data), 4095 - RAMP if turned else RAMP)


@pytest.mark.parametrize("meaning", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(tmp_path: Path, meaning: str) -> None:
    data = radiograph(PhotometricInterpretation=meaning, PixelPaddingValue=4000)
    pixels = shown(tmp_path, data)
    assert pixels[RAMP == 4000] == 0
    assert np.count_nonzero(pixels) == 4094
    data.PixelPaddingRangeLimit = 4009
    assert not shown(tmp_path, data)[(RAMP >= 4000) & (RAMP <= 4009)].any()


def test_signed_padding_written_as_unsigned(tmp_path: Path) -> None:
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    data = radiograph(signed)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert shown(tmp_path, data)[signed == -2000] == 0


def test_overlays_in_unused_bits_are_not_seen(tmp_path: Path) -> None:
    np.testing.assert_array_equal(shown(tmp_path, radiograph(RAMP | 0x8000)), RAMP)


def test_big_endian_implicit_and_files_without_a_preamble(tmp_path: Path) -> None:
    data = radiograph(RAMP)
    bare = Dataset()
    bare.update(data)
    bare.save_as(tmp_path / "bare.dcm", implicit_vr=True, little_endian=True)
    assert (tmp_path / "bare.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_dicom(tmp_path / "bare.dcm").pixels, RAMP)
    for syntax, order in [(ImplicitVRLittleEndian, "<u2"), (ExplicitVRBigEndian, ">u2")]:
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = RAMP.astype(order).tobytes()
        np.testing.assert_array_equal(shown(tmp_path, data), RAMP)


def compressed(data: Dataset, syntax: UID, codestream: bytes) -> Dataset:
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([codestream])
    data["PixelData"].VR = "OB"
    return data


def test_what_is_decoded_without_extras(tmp_path: Path) -> None:
    data = radiograph(RAMP)
    data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    np.testing.assert_array_equal(shown(tmp_path, data), RAMP)
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    data = compressed(radiograph(RAMP, bits=16), JPEG2000Lossless, buffer.getvalue())
    np.testing.assert_array_equal(shown(tmp_path, data), RAMP)
    smooth = (RAMP // 16).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    data = compressed(radiograph(smooth, bits=8), JPEGBaseline8Bit, buffer.getvalue())
    assert np.abs(shown(tmp_path, data).astype(int) - smooth).max() <= 6


def ours(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    return Path(found)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"])
def test_what_the_extra_decodes(name: str) -> None:
    pytest.importorskip("libjpeg", reason="needs pip install '.[dicom]'")
    picture = read_pixels(ours(name))
    assert picture.pixels.std() > 0
    if name.startswith("MR"):
        np.testing.assert_array_equal(picture.pixels, read_pixels(ours("MR_small.dcm")).pixels)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"])
def test_one_picture_however_stored(name: str) -> None:
    reference = read_pixels(ours("MR_small_implicit.dcm")).pixels
    np.testing.assert_array_equal(read_pixels(ours(name)).pixels, reference)


def test_no_decoder_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(compressed(radiograph(), JPEGLosslessSV1, b"\xff\xd8"), tmp_path / "a.dcm")
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(UnreadableImageError, match=r"a\.dcm: compressed as JPEG Lossless") as no:
        read_pixels(path)
    assert ".[dicom]" in no.value.hint
    path = save(compressed(radiograph(), UID("1.2.840.10008.1.2.4.100"), b"x"), path)
    with pytest.raises(UnreadableImageError, match=r"a\.dcm: its transfer syntax, MPEG2"):
        read_pixels(path)


def without(data: Dataset, keyword: str) -> Dataset:
    del data[keyword]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without(radiograph(), "PixelData"), "no pixels"),
        (radiograph(NumberOfFrames=2), "2 frames"),
        (radiograph(SamplesPerPixel=3, PhotometricInterpretation="RGB"), r"in colour \(RGB\)"),
        (radiograph(PhotometricInterpretation="PALETTE COLOR"), "in colour"),
        (radiograph(BitsStored=17), "17 of 16 bits"),
        (radiograph(RAMP << 4, HighBit=15), "highest bit is bit 15, where bit 11 was expected"),
        (radiograph(Rows=65), "number of bytes of pixel data is less than expected"),
        (without(radiograph(), "Rows"), "not a readable DICOM image"),
        (radiograph(Rows=60000, Columns=60000), "60000 × 60000 pixels, the limit is"),
        (radiograph(WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC"), "VOI LUT Function"),
        (radiograph(VOILUTSequence=[lut(np.arange(9), bits=12)]), ""),
        (without(radiograph(FloatPixelData=b"0000"), "PixelData"), "floating-point"),
        (compressed(radiograph(), JPEG2000Lossless, b"damaged!"), "compressed as JPEG 2000"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, data: Dataset, message: str) -> None:
    path = save(data, tmp_path / "a.dcm")
    if not message:
        assert read_dicom(path).pixels.max() == 8
        return
    with pytest.raises(UnreadableImageError, match=rf"a\.dcm: .*{message}") as caught:
        read_pixels(path)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + bytes(300)])
def test_files_that_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"a\.dcm: not a (readable )?DICOM"):
        read_pixels(tmp_path / "a.dcm")
    with pytest.raises(UnreadableImageError, match=r"gone\.dcm: .*No such file"):
        read_pixels(tmp_path / "gone.dcm")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = save(radiograph(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnreadableImageError, match=r"a\.dcm"):
        read_pixels(path)


def test_what_is_told_holds_names_but_no_values(tmp_path: Path) -> None:
    data = radiograph(PatientName="Doe^Jane", PatientID="4711", PatientBirthDate="")
    data.BurnedInAnnotation, data.ViewPosition, data.InstitutionName = "YES", "PA", "  "
    item = Dataset()
    item.RequestedProcedureID = "secret"
    data.RequestAttributesSequence = [item]
    data.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "secret")
    facts = read_grey(save(data, tmp_path / "a.dcm")).dicom
    assert facts is not None
    assert (facts.modality, facts.view, facts.burned_in, facts.windows) == ("CR", "PA", "yes", 0)
    assert facts.identifying == (
        "PatientID",
        "PatientName",
        "RequestAttributesSequence",
        "RequestedProcedureID",
        PRIVATE,
    )
    assert {"PatientName", "AccessionNumber", "InstitutionName"} <= IDENTIFYING
    data.Modality, data.ViewPosition, data.BurnedInAnnotation = "", "DOE JANE", "NO"
    facts = read_dicom(save(data, tmp_path / "a.dcm")).facts
    assert (facts.modality, facts.view, facts.burned_in) == ("unknown", "other", "no")
    del data.BurnedInAnnotation
    assert read_dicom(save(data, tmp_path / "a.dcm")).facts.burned_in == "unknown"


def test_pydicom_is_silent_about_sloppy_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = radiograph(PatientBirthDate="19000101", PatientAge="081Y")
    data.PixelData += bytes(10)
    path = save(data, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"19000101", b"SECRET!!").replace(b"081Y", b"XXXX"))
    with pytest.warns(UserWarning, match="excess padding"):
        assert dcmread(path).pixel_array.any()
    assert caplog.records
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        facts = read_dicom(path).facts
    assert facts.identifying == ("PatientAge", "PatientBirthDate")
    assert not warned
    assert not caplog.records
    assert not logging.getLogger("pydicom").disabled


def test_patients_are_told_apart_by_number_and_issuer(tmp_path: Path) -> None:
    def group(**attributes: Any) -> str:
        return patient_group(save(radiograph(**attributes), tmp_path / "a.dcm"))

    one = group(PatientID="4711")
    assert one.startswith("dicom:")
    assert len(one) == len("dicom:") + 64
    assert "4711" not in one
    assert one == group(PatientID="4711 ", PatientName="A")
    assert len({one, group(PatientID="4712"), group(PatientID="4711", IssuerOfPatientID="A")}) == 3
    assert group() == group(PatientID="") == ""
    assert patient_group(tmp_path / "gone.dcm") == ""


def test_dicom_is_known_by_suffix_or_preamble(tmp_path: Path) -> None:
    path = save(radiograph(), tmp_path / "1.2.840.4711")
    assert names_dicom(path)
    assert read_pixels(path).stored_mode == "DICOM"
    assert names_dicom(tmp_path / "gone.DCM")
    (tmp_path / "text").write_bytes(b"text")
    assert not names_dicom(tmp_path / "text")
    assert not names_dicom(tmp_path / "gone")


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real DICOMs are not beside the repository (shared/dicom)"
)
@pytest.mark.parametrize("name", ["barre_CR-MONO1-10-chest", "nih_dx", "siim_cr_chest"])
def test_real_radiographs_show_dark_lungs_and_a_bright_spine(name: str) -> None:
    (path,) = REAL.glob(f"{name}*.dcm")
    chest = np.asarray(read_grey(path, size=100).picture).astype(float)
    lungs = [chest[25:45, left : left + 12].mean() for left in (24, 66)]
    spine, shoulder = chest[50:70, 48:54].mean(), chest[12:20, 2:12].mean()
    assert max(lungs) + 30 < spine
    assert shoulder != pytest.approx(0, abs=1)
    facts = read_grey(path).dicom
    assert facts is not None
    assert facts.modality in {"CR", "DX"}
    assert "PatientName" in facts.identifying


@pytest.mark.parametrize("suffix", [".dcm", ".png"])
def test_a_file_that_was_read_already_is_not_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".dcm":
        save(radiograph(), path)
    else:
        Image.fromarray(RAMP).save(path)
    data, expected = path.read_bytes(), read_pixels(path)
    path.unlink()
    np.testing.assert_array_equal(read_pixels(path, data=data).pixels, expected.pixels)
