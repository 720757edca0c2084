"""What `ppfl data check` prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from ppfl.xray import write_phantoms
from simulations.data_command import data


def _told(*arguments: object) -> str:
    result = CliRunner().invoke(data, ["check", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    folder = tmp_path / "xrays"
    write_phantoms(folder, counts={"Normal": 12, "Nodule": 11}, size=64, seed=1)
    return folder


def test_of_a_sound_folder_the_classes_are_told(xrays: Path) -> None:
    told = _told(xrays)
    assert "23 X-rays of 17 patients or other groups, the largest of 2; one folder per" in told
    assert [line.split() for line in told.splitlines() if line.startswith("  N")] == [
        ["Nodule", "11"],
        ["Normal", "12"],
    ]
    assert "pixels: 64 × 64; stored as L (23)" in told
    assert told.endswith("Nothing to mend.\n")
    assert "DICOM" not in told


def test_what_is_to_be_mended_is_named_by_its_path_in_the_folder(xrays: Path) -> None:
    normal = sorted((xrays / "Normal").iterdir())
    copies = [shutil.copy(path, xrays / "Nodule" / f"again-{path.name}") for path in normal]
    (xrays / "Normal" / "[cut].png").write_bytes(normal[0].read_bytes()[:99])
    told = _told(xrays)
    assert "the same picture, to the last pixel: 12\n" in told
    assert f"  Nodule/{Path(copies[0]).name} = Normal/{normal[0].name}\n" in told
    assert "… and 2 more; --json names all" in told
    assert "cannot be read: 1\n  Normal/[cut].png\n" in told
    assert "What to do:\n- " in told
    assert len(json.loads(_told(xrays, "--json"))["duplicates"]) == 12


def test_a_name_with_brackets_is_printed_as_it_is(xrays: Path) -> None:
    (xrays / "Normal").rename(xrays / "[b]Normal")
    assert "  [b]Normal       12  \n" in _told(xrays)


def test_a_name_that_is_no_utf8_is_printed_with_escapes(xrays: Path) -> None:
    (xrays / "Normal" / os.fsdecode(b"R\xf6ntgen.png")).write_bytes(b"damaged")
    program = [sys.executable, "-c", "from simulations.program import main; main()"]
    ended = subprocess.run(
        [*program, "data", "check", str(xrays)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
    )
    assert "cannot be read: 1\n  Normal/R\\udcf6ntgen.png\n" in ended.stdout, ended.stderr
    assert ended.returncode == 0


def test_dicoms_tell_how_many_of_each_kind(xrays: Path) -> None:
    source = get_testdata_file("CT_small.dcm")
    assert source is not None
    shutil.copy(str(source), xrays / "Normal" / "one.dcm")
    told = _told(xrays)
    assert "DICOM: 1 files; kinds: CT (1); " in told
    assert "PatientID (1)" in told
    assert "1CT1" not in told  # the PatientID itself
