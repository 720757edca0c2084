from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ppfl.errors import DataError
from ppfl.learning.images import load_images
from ppfl.learning.sources import (
    ImageRecord,
    count_left_out,
    layout_of,
    match_class,
    read_records,
    write_manifest,
)
from ppfl.xray.vault import is_vault

XRAYS = Path(__file__).parents[2] / ".." / "shared" / "xrays"


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)
    return path


def labels(records: list[ImageRecord]) -> dict[str, str]:
    return {record.path.name: record.label for record in records}


def test_radiography_database_with_and_without_the_images_level(tmp_path: Path) -> None:
    put(tmp_path / "COVID" / "images" / "COVID-1.png", 1)
    put(tmp_path / "COVID" / "masks" / "COVID-1.png", 255)
    put(tmp_path / "Viral Pneumonia" / "Viral Pneumonia-1.png", 2)
    (tmp_path / "COVID.metadata.xlsx").write_bytes(b"not an image")
    records = read_records(tmp_path)
    assert labels(records) == {
        "COVID-1.png": "COVID",
        "Viral Pneumonia-1.png": "Viral Pneumonia",
    }
    assert "COVID-19 Radiography Database" in layout_of(tmp_path)
    asked = read_records(tmp_path, classes=["Viral_Pneumonia", "Normal"])
    assert [record.label for record in asked] == ["Viral_Pneumonia"]


@pytest.mark.parametrize("above", ["", "chest_xray"])
def test_kermany_ignores_its_own_split_and_groups_by_patient(tmp_path: Path, above: str) -> None:
    root = tmp_path / above
    put(root / "train" / "PNEUMONIA" / "person1_bacteria_1.jpeg")
    put(root / "train" / "PNEUMONIA" / "person1_bacteria_2.jpeg")
    put(root / "test" / "PNEUMONIA" / "person1_virus_6.jpeg")
    put(root / "val" / "NORMAL" / "IM-0001-0001.jpeg")
    put(root / "val" / "NORMAL" / "NORMAL2-IM-0001-0001-0002.jpeg")
    records = read_records(tmp_path)
    assert Counter(record.label for record in records) == {"PNEUMONIA": 3, "NORMAL": 2}
    assert Counter(record.group for record in records) == {
        "kermany:person1": 3,
        "kermany:IM-0001": 1,
        "kermany:NORMAL2-IM-0001": 1,
    }
    assert "Kermany" in layout_of(tmp_path)


def test_kermany_pneumonia_by_cause_where_the_study_asks_for_it(tmp_path: Path) -> None:
    put(tmp_path / "train" / "PNEUMONIA" / "person1_bacteria_1.jpeg")
    put(tmp_path / "train" / "PNEUMONIA" / "person2_virus_6.jpeg")
    both = read_records(tmp_path, classes=["viral pneumonia", "Bacterial_Pneumonia"])
    assert [record.label for record in both] == ["Bacterial_Pneumonia", "viral pneumonia"]
    viral = read_records(tmp_path, classes=["Viral_Pneumonia"])
    assert [record.path.name for record in viral] == ["person2_virus_6.jpeg"]
    rest = read_records(tmp_path, classes=["Viral_Pneumonia", "Pneumonia"])
    assert [record.label for record in rest] == ["Pneumonia", "Viral_Pneumonia"]
    # a vault is sealed before any study asks, and must serve each of them as the folder does
    sealed = [record.label for record in read_records(tmp_path, causes=True)]
    assert sealed == ["Bacterial_Pneumonia", "Viral_Pneumonia"]
    for classes in (["viral pneumonia"], ["PNEUMONIA"], ["Viral_Pneumonia", "Pneumonia"]):
        found = read_records(tmp_path, classes=classes)
        matched = [match_class(label, classes) for label in sealed]
        assert [label for label in matched if label] == [record.label for record in found]


def test_any_tree_of_one_folder_per_class(tmp_path: Path) -> None:
    put(tmp_path / "sick" / "phantom_p12_3.png")
    put(tmp_path / "sick" / "phantom_p12_4.png", 1)
    put(tmp_path / "well" / "a.TIF", 7)
    put(tmp_path / "copies" / "b.png", 9)
    put(tmp_path / "copies" / "c.png", 9)
    put(tmp_path / "loose.png")
    put(tmp_path / "__MACOSX" / "sick" / "x.png")
    put(tmp_path / "well" / "._a.png")
    records = read_records(tmp_path)
    assert [record.path for record in records] == sorted(record.path for record in records)
    groups = {record.path.name: record.group for record in records}
    assert set(groups) == {"phantom_p12_3.png", "phantom_p12_4.png", "a.TIF", "b.png", "c.png"}
    assert groups["phantom_p12_3.png"] == groups["phantom_p12_4.png"] == "phantom:p12"
    assert groups["b.png"] == groups["c.png"] != groups["a.TIF"]
    assert groups["b.png"].startswith("sha256:")
    assert layout_of(tmp_path) == "one folder per class"


def test_dicoms_of_any_suffix_and_none_are_grouped_by_patient(tmp_path: Path) -> None:
    def put_dicom(path: Path, patient: str) -> None:
        path.parent.mkdir(exist_ok=True)
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1"
        data.PatientID = patient
        data.save_as(path, enforce_file_format=True)

    for name, patient in [("a.DCM", "1"), ("IM0001", "1"), ("1.2.840.5", "2"), ("none.dcm", "")]:
        put_dicom(tmp_path / "sick" / name, patient)
    put_dicom(tmp_path / "sick" / "DICOMDIR", "3")
    others = ["b.dicom", "c.dic", "d.IMA", "e.odd"]
    for name in others:
        put_dicom(tmp_path / "sick" / name, "1")
    for name in ("README", "b.xml", "c.mp4"):
        (tmp_path / "sick" / name).write_text("no image")
    os.mkfifo(tmp_path / "sick" / "pipe.ima")
    groups = {record.path.name: record.group for record in read_records(tmp_path)}
    assert set(groups) == {"a.DCM", "IM0001", "1.2.840.5", "none.dcm", *others}
    assert {groups[name] for name in others} == {groups["IM0001"]}
    assert groups["a.DCM"] == groups["IM0001"] != groups["1.2.840.5"]
    assert groups["IM0001"].startswith("dicom:")
    assert groups["none.dcm"].startswith("sha256:")
    (tmp_path / "index.csv").write_text("path,label,group\nsick/a.DCM,x,g\n")
    assert read_records(tmp_path)[0].group == "g"


def test_classes_that_differ_only_in_spelling_are_one(tmp_path: Path) -> None:
    put(tmp_path / "a" / "Lung Opacity" / "1.png")
    put(tmp_path / "b" / "lung-opacity" / "2.png")
    assert {record.label for record in read_records(tmp_path)} == {"Lung Opacity"}
    with pytest.raises(DataError, match="differ only in spelling"):
        read_records(tmp_path, classes=["Lung Opacity", "lung_opacity"])


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "COVID").symlink_to(tmp_path / "elsewhere")
    (data / "COVID" / "loop").symlink_to(data)
    assert [record.label for record in read_records(data)] == ["COVID"]


@pytest.mark.parametrize("name", ["index.csv", "manifest.csv", "of_mine.csv"])
def test_a_table_names_class_patient_and_site(tmp_path: Path, name: str) -> None:
    put(tmp_path / "x" / "1.png")
    away = put(tmp_path / "away" / "2.png")
    table = tmp_path / "x" / name
    table.write_text(
        f"\ufeffPath, Class ,patient,site,note\n1.png,COVID,p1,north,a\n{away},Normal,,,\n", "utf-8"
    )
    records = read_records(table if name == "of_mine.csv" else table.parent)
    assert [(r.path, r.label, r.site) for r in records] == [
        (away, "Normal", ""),
        (tmp_path / "x" / "1.png", "COVID", "north"),
    ]
    assert records[1].group == "p1"
    assert records[0].group.startswith("sha256:")
    assert layout_of(table.parent if name != "of_mine.csv" else table) == f"table {name}"


def test_a_line_of_a_table_may_name_a_patients_folder(tmp_path: Path) -> None:
    put(tmp_path / "archive" / "4711" / "study" / "1.png", 1)
    put(tmp_path / "archive" / "4711" / "2.png", 2)
    put(tmp_path / "archive" / "4712" / "3.png", 3)
    (tmp_path / "index.csv").write_text("path;label;patient\narchive/4711;a;p\narchive/4712;b;\n")
    records = read_records(tmp_path)
    assert labels(records) == {"1.png": "a", "2.png": "a", "3.png": "b"}
    groups = {record.path.name: record.group for record in records}
    assert groups["1.png"] == groups["2.png"] == "p"
    assert groups["3.png"].startswith("sha256:")


def test_what_is_of_no_class_is_counted_by_label(tmp_path: Path) -> None:
    put(tmp_path / "train" / "PNEUMONIA" / "person1_bacteria_1.jpeg")
    put(tmp_path / "train" / "PNEUMONIA" / "person2_virus_6.jpeg")
    put(tmp_path / "train" / "Normal" / "1.png")
    for shade in (1, 2):
        put(tmp_path / "train" / "Effusion" / f"{shade}.png", shade)
    classes = ["normal", "Viral_Pneumonia"]
    assert count_left_out(tmp_path, classes) == {"Bacterial_Pneumonia": 1, "Effusion": 2}
    assert len(read_records(tmp_path, classes=classes)) == 2
    assert count_left_out(tmp_path, ["NORMAL", "pneumonia", "effusion"]) == {}


def test_a_group_column_goes_before_a_patient_column(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "index.csv").write_text("path,label,patient,group\n1.png,a,p,g\n")
    assert read_records(tmp_path)[0].group == "g"


def test_a_manifest_reads_back_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "images" / "a, b" / '1"é.png')
    put(tmp_path / "images" / "Normal" / "person3_virus_1.png")
    monkeypatch.chdir(tmp_path)
    records = read_records(Path("images"))
    assert all(record.path.is_absolute() for record in records)
    (tmp_path / "other").mkdir()
    write_manifest(tmp_path / "other" / "manifest.csv", records)
    assert read_records(tmp_path / "other") == records
    first_line = (tmp_path / "other" / "manifest.csv").read_text("utf-8").splitlines()[0]
    assert first_line == "path,label,group,site"


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_manifest(tmp_path / "no such folder" / "manifest.csv", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path or file or filename or image among none"),
        ("path,age\n1.png,a\n", "no column label or class or diagnosis or finding among path, age"),
        ("place,label\n1.png,a\n", "no column path or file .* among place, label"),
        ("path,label\n,a\n", "line 2: the column path is empty"),
        ("path,label\n1.png\n", "line 2: the column label is empty"),
        ("path,label\n1.png,a\n./1.png,b\n", "line 3: .*1.png is listed a second time"),
        ("path,label\n../1.png,a\n", "leads out of the table's folder"),
        ("path,label\nsub/../../1.png,a\n", "leads out of the table's folder"),
        ("path,label\n2.png,a\n1.png,a\n3.png,a\n", "2 of 3 images are missing, .*2.png"),
        ("path,label\n", "no image in a folder per class"),
        ("path,label\nempty,a\n", "line 2: no image in .*empty"),
        ("path,label\n.,a\n", "leads out of the table's folder"),
        ("path,label\nsick,a\nsick/2.png,a\n", "line 3: .*2.png is listed a second time"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path / "1.png")
    put(tmp_path / "sick" / "2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_records(tmp_path)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(b"path,label\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a readable CSV table"):
        read_records(tmp_path)


def test_files_of_classes_not_asked_for_need_not_be_there(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "index.csv").write_text("path,label\n1.png,a\ngone.png,b\n")
    assert len(read_records(tmp_path, classes=["a", "c"])) == 1


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_records(tmp_path / "missing")
    with pytest.raises(DataError, match="no such folder"):
        layout_of(tmp_path / "missing")
    with pytest.raises(DataError, match="no image in a folder per class") as caught:
        read_records(tmp_path)
    assert "manifest.csv" in caught.value.hint
    image = put(tmp_path / "COVID" / "1.png")
    with pytest.raises(DataError, match="neither a folder of images nor a CSV table"):
        read_records(image)
    with pytest.raises(DataError, match=r"no image of the classes Normal; found COVID \(1\)$"):
        read_records(tmp_path, classes=["Normal"])


def test_a_folder_that_must_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "COVID" / "1.png")
    listing = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("COVID"):
            raise PermissionError(13, "Permission denied", str(place))
        return listing(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="COVID: the folder cannot be read"):
        read_records(tmp_path)


@pytest.mark.parametrize("look", [read_records, is_vault])
def test_a_folder_that_must_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[Path], object]
) -> None:
    closed, stat = tmp_path / "closed", Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DataError, match="closed: the folder cannot be read: Permission denied"):
        look(closed)


def test_an_image_that_must_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "COVID" / "1.png")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    with pytest.raises(DataError, match=r"1\.png: the image cannot be read: Permission denied"):
        read_records(tmp_path)


@pytest.mark.skipif(
    not XRAYS.is_dir(), reason="the real X-rays are not beside the repository (shared/xrays)"
)
def test_the_real_xrays() -> None:
    records = read_records(XRAYS)
    assert len(records) == 5879
    assert len({record.label for record in records}) == 6
    assert len({record.site for record in records}) == 5
    assert len({record.group for record in records}) == 3996
    classes = ["COVID", "Normal", "Viral Pneumonia"]
    some = read_records(XRAYS, classes=classes)[::300][:20]
    images = load_images(some, classes=classes, size=64)
    assert images.images.shape == (len(some), 64, 64)
    assert np.all(images.images.std(axis=(1, 2)) > 5)
