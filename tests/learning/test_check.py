from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ppfl.errors import DataError
from ppfl.learning.check import DicomReport, FolderReport, check_folder


def put(path: Path, *, seed: int, side: int = 64, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 1), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def sound_folder(root: Path) -> Path:
    for i in range(20):
        put(root / ("COVID" if i < 10 else "Normal") / f"{i:02}.png", seed=i)
    return root


def test_images_that_must_not_be_opened_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = [put(sound_folder(tmp_path) / "COVID" / f"{name}.png", seed=9) for name in "xy"]
    opened = io.open

    def refuse(path: object, *arguments: Any, **more: Any) -> Any:
        if str(path) in map(str, closed):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    report = check_folder(tmp_path)
    assert report.unreadable == tuple(closed)
    assert (report.groups, report.largest_group) == (22, 1)


def warning(report: FolderReport, words: str) -> str:
    matching = [text for text in report.warnings if words in text]
    assert len(matching) == 1, report.warnings
    return matching[0]


def test_a_sound_folder_has_no_warnings(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    report = check_folder(
        sound_folder(tmp_path), progress=lambda image, of: done.append((image, of))
    )
    assert report == FolderReport(
        layout="one folder per class",
        classes={"COVID": 10, "Normal": 10},
        left_out={},
        sites={},
        groups=20,
        largest_group=1,
        groups_with_two_classes=0,
        sizes=((65, 64), (65, 64)),
        modes={"L": 20},
        duplicates=(),
        contradictions=(),
        unreadable=(),
        dicom=DicomReport(0, {}, {}, {}, {}, 0),
        annotated=(),
        warnings=(),
    )
    assert done == [(image, 20) for image in range(1, 21)]


def test_labels_outside_the_study_are_counted_and_named(tmp_path: Path) -> None:
    root = sound_folder(tmp_path)
    report = check_folder(root, classes=["covid", "Effusion"])
    assert report.left_out == {"Normal": 10}
    assert report.classes == {"COVID": 10, "Normal": 10}
    told = warning(report, "of no class of the study")
    assert "leaves out: 10, labelled Normal (10)." in told
    assert "covid, Effusion" in told
    assert check_folder(root, classes=["COVID", "Normal"]).warnings == ()


def test_bad_images_are_counted_not_raised(tmp_path: Path) -> None:
    root = sound_folder(tmp_path)
    bad = root / "COVID" / "bad.png"
    bad.write_bytes(b"damaged")
    report = check_folder(root)
    assert report.unreadable == (bad,)
    assert report.classes == {"COVID": 11, "Normal": 10}
    assert "1 of 21" in warning(report, "cannot be read")
    assert "bad.png: not a readable image" in warning(report, "cannot be read")


def test_dicoms_are_counted_by_what_they_tell(tmp_path: Path) -> None:
    root = sound_folder(tmp_path)
    for number, annotated in enumerate(["YES", "NO", ""]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1"
        data.BurnedInAnnotation, data.PatientName, data.Modality = annotated, "Secret", "DX"
        data.WindowCenter, data.WindowWidth = [90 + number, 60], [100, 50]
        data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
        data.PixelRepresentation, data.BitsAllocated, data.BitsStored = 0, 8, 8
        data.Rows = data.Columns = 64
        data.HighBit = 7
        data.add_new("PixelData", "OB", bytes(range(256)) * 16)
        data.save_as(root / "COVID" / f"{number}.dcm", enforce_file_format=True)
    report = check_folder(root)
    assert report.dicom == DicomReport(
        files=3,
        burned_in={"no": 1, "unknown": 1, "yes": 1},
        identifying={"PatientName": 3},
        modalities={"DX": 3},
        views={"unknown": 3},
        several_windows=3,
    )
    assert report.annotated == (root / "COVID" / "0.dcm",)
    assert report.modes == {"DICOM": 3, "L": 20}
    assert ": 1." in warning(report, "text about the patient")
    assert ": 1." in warning(report, "do not say")
    assert ": 3." in warning(report, "more than one window")
    assert "hashed" in warning(report, "attributes that identify")
    assert "Secret" not in str(report)


def test_copies_are_found_by_their_pixels(tmp_path: Path) -> None:
    root = sound_folder(tmp_path)
    grey = put(root / "COVID" / "x.png", seed=99)
    colour = put(root / "Normal" / "x.bmp", seed=99, mode="RGB")
    report = check_folder(root)
    assert report.duplicates == report.contradictions == ((grey, colour),)
    assert report.modes == {"L": 21, "RGB": 1}
    assert "the same to the last pixel: 1" in warning(report, "filed under two classes")
    assert ": 1." in warning(report, "copies in different groups")


def test_copies_in_one_group_and_class_only_count_twice(tmp_path: Path) -> None:
    root = sound_folder(tmp_path)
    for name in ("x", "y"):
        put(root / "COVID" / f"{name}.png", seed=99)
    report = check_folder(root)
    assert len(report.duplicates) == 1
    assert report.contradictions == ()
    assert len(report.warnings) == 1
    assert "there more than once: 1" in report.warnings[0]


def test_few_small_and_lonely_images(tmp_path: Path) -> None:
    put(tmp_path / "COVID" / "1.png", seed=1, side=20)
    put(tmp_path / "COVID" / "2.png", seed=2, side=80)
    report = check_folder(tmp_path)
    assert report.sizes == ((21, 20), (81, 80))
    assert "COVID" in warning(report, "one class only")
    assert "COVID (2)" in warning(report, "fewer than 10 images")
    assert ": 1." in warning(report, "below 64 pixels")


def test_patients_and_sites_of_a_table(tmp_path: Path) -> None:
    lines = ["path,label,group,site"]
    for i in range(40):
        path = put(tmp_path / f"{i}.png", seed=i)
        label = "COVID" if i < 15 else "Normal"
        lines.append(f"{path.name},{label},{'big' if i < 20 else i},{'n' if i < 18 else 's'}")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    report = check_folder(tmp_path)
    assert report.layout == "table index.csv"
    assert report.sites == {"n": 18, "s": 22}
    assert (report.groups, report.largest_group, report.groups_with_two_classes) == (21, 20, 1)
    assert ": 1." in warning(report, "Groups with more than one class")
    assert "holds 20 of 40 images" in warning(report, "One group, big")
    assert "one site only: COVID" in warning(report, "hospital instead of the disease")


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        check_folder(tmp_path / "missing")
    (tmp_path / "COVID").mkdir()
    (tmp_path / "COVID" / "1.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="none of 1 images can be decoded"):
        check_folder(tmp_path)
