"""Groups are looked up once a file; those that tables and DICOMs give are in test_sources.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from ppfl.errors import DataError
from ppfl.learning import groups
from ppfl.learning.groups import Groups
from ppfl.learning.sources import read_records


def _put(path: Path, shade: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)
    return path


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened for it."""
    names: list[str] = []
    whole = groups._group_of

    def note(path: Path) -> str:
        names.append(path.name)
        return whole(path)

    monkeypatch.setattr(groups, "_group_of", note)
    return names


def test_a_file_is_looked_into_once_until_it_changes(tmp_path: Path, looked_up: list[str]) -> None:
    kept, data = tmp_path / "work" / "cache" / "groups.json", tmp_path / "x"
    one, other = _put(data / "1.png", 1), _put(data / "2.png", 2)
    first = read_records(tmp_path, kept_groups=kept)
    assert looked_up == ["1.png", "2.png"]
    assert read_records(tmp_path, kept_groups=kept) == first == read_records(tmp_path)
    assert looked_up == ["1.png", "2.png"] * 2  # the last of the three keeps nothing
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "png" not in kept.read_text()

    _put(one, 3)
    os.utime(one, ns=(1, 1))
    changed = read_records(tmp_path, kept_groups=kept)
    assert looked_up[4:] == ["1.png"]
    assert changed[0].group != first[0].group
    assert changed[1] == first[1]

    other.unlink()
    read_records(tmp_path, kept_groups=kept)
    assert kept.read_text().count("sha256:") == 1


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"a": 1}', b"\xff", b"{"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    kept = tmp_path / "groups.json"
    _put(tmp_path / "x" / "1.png", 1)
    first = read_records(tmp_path / "x" / "..", kept_groups=kept)
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert read_records(tmp_path, kept_groups=kept) == first
    assert kept.read_bytes() == whole


def test_what_cannot_be_read_or_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: the image cannot be read: No such file"):
        Groups().of(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"none\.png: the image cannot be read: No such file"):
        Groups(tmp_path / "groups.json").of(tmp_path / "none.png")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    found = Groups(in_the_way / "groups.json")
    found.of(_put(tmp_path / "x" / "1.png", 1))
    with pytest.raises(DataError, match=r"groups\.json: cannot be written"):
        found.keep()


def test_a_dicom_that_names_no_patient_is_looked_into_again(
    tmp_path: Path, looked_up: list[str]
) -> None:
    # it may only have failed to be read
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM")
    for _ in range(2):
        found = Groups(tmp_path / "groups.json")
        assert found.of(path).startswith("sha256:")
        found.keep()
    assert looked_up == ["a.dcm"] * 2


def test_what_osirix_calls_every_patients_files_is_no_patient(tmp_path: Path) -> None:
    name = "IM-0001-0001.jpg"
    of_one, of_another = (_put(tmp_path / f"p{i}" / name, i) for i in range(2))
    assert Groups().of(of_one) != Groups().of(of_another)
    for folder in ("NORMAL", "Normal"):
        assert Groups().of(_put(tmp_path / folder / name, 3)) == "kermany:IM-0001"
