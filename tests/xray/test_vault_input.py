"""What can be wrong with X-rays, vaults and disks: each is named, and the others go on."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from ppfl.crypto import generate_unsafe_key
from ppfl.errors import DataError, VaultError
from ppfl.xray import files
from ppfl.xray.vault import (
    Failure,
    SealReport,
    VaultSource,
    check_folder,
    is_vault,
    open_folder,
    seal_folder,
)
from ppfl.xray.vault_file import VaultImage, VaultKey
from tests.xray.test_dicom import radiograph, save

_KEY = generate_unsafe_key(256)
_WRITER, _READER = VaultKey(_KEY.public), VaultKey(_KEY.public, _KEY)


def _sources(folder: Path, count: int = 3) -> list[VaultSource]:
    folder.mkdir(exist_ok=True)
    sources = [VaultSource(folder / f"{i}.png", "Normal", str(i)) for i in range(count)]
    for number, source in enumerate(sources):
        Image.fromarray(np.full((6, 7), number, np.uint8)).save(source.path)
    return sources


def _seal(tmp_path: Path, sources: list[VaultSource], key: VaultKey = _WRITER) -> SealReport:
    return seal_folder(sources, tmp_path / "vault", key, ledger=tmp_path / "ledger")


def _files(tmp_path: Path) -> list[Path]:
    """The vault's files, each of which opens; none may be half written."""
    assert not list((tmp_path / "vault").glob("*.part"))
    paths = sorted((tmp_path / "vault").glob("*.xray"))
    if paths:
        found = open_folder(tmp_path / "vault", _READER)
        assert all(isinstance(image, VaultImage) for _, image in found)
    return paths


def _without_pixels() -> Dataset:
    data = radiograph()
    del data.PixelData
    return data


def _compressed(syntax: str) -> Dataset:
    data = radiograph(np.zeros((64, 64), np.uint8), bits=8)
    data.PixelData = encapsulate([b"\xff\xd8 no picture \xff\xd9"])
    data.file_meta.TransferSyntaxUID = syntax
    return data


def _named_window() -> Dataset:
    data = radiograph(WindowWidth=9)
    data.add_new("WindowCenter", "DS", "77")
    data["WindowCenter"]._value = "Doe^Jane"
    return data


_DICOMS: list[tuple[Callable[[], Dataset], str]] = [
    (_without_pixels, "no pixels"),
    (lambda: radiograph(np.zeros((128, 64), np.uint16), Rows=64, NumberOfFrames=2), "2 frames"),
    (lambda: radiograph(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "in colour (RGB)"),
    (lambda: radiograph(PhotometricInterpretation="DOE_JANE"), "in colour (other)"),
    (lambda: _compressed(JPEGBaseline8Bit), "cannot be decoded"),
    (lambda: _compressed("1.2.840.10008.1.2.4.102"), "cannot be read"),  # MPEG-4
    (_named_window, "could not convert string to float: '…'"),
]


@pytest.mark.parametrize(("make", "reason"), _DICOMS)
def test_a_dicom_that_is_no_radiograph_is_named(
    tmp_path: Path, make: Callable[[], Dataset], reason: str
) -> None:
    sources = _sources(tmp_path / "xrays")
    bad = save(make(), tmp_path / "xrays" / "bad.dcm")
    report = _seal(tmp_path, [VaultSource(bad, "Normal", "x"), *sources])
    assert report.sealed == len(_files(tmp_path)) == 3
    assert [failure.path for failure in report.failures] == [bad]
    assert reason in report.failures[0].reason
    for secret in ("doe", str(bad)):
        assert secret not in report.failures[0].reason.lower()


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, files._MOST_BYTES + 1)


_PLACES: list[tuple[Callable[[Path], object], str, str]] = [
    (Path.mkdir, "Is a directory", "Is a directory"),
    (os.mkfifo, "not a file", "not a file"),
    (lambda path: path.symlink_to(path), "symbolic links", "symbolic links"),
    (lambda path: path.symlink_to("gone"), "No such file", "No such file"),
    (Path.touch, "of no known format", "not a vault file"),
    (_huge, "1073741825 bytes, at most", "1073741825 bytes, at most"),
]


@pytest.mark.parametrize(("make", "sealing", "opening"), _PLACES)
def test_what_is_no_file_or_too_large_is_named(
    tmp_path: Path, make: Callable[[Path], object], sealing: str, opening: str
) -> None:
    sources = _sources(tmp_path / "xrays")
    bad = tmp_path / "xrays" / "bad.png"
    make(bad)
    report = _seal(tmp_path, [VaultSource(bad, "Normal", "x"), *sources])
    assert report.sealed == len(_files(tmp_path)) == 3
    assert [failure.path for failure in report.failures] == [bad]
    assert sealing in report.failures[0].reason
    other = tmp_path / "vault" / "bad.xray"
    make(other)
    for found in (
        dict(open_folder(tmp_path / "vault", _READER)),
        dict(check_folder(tmp_path / "vault", _WRITER)),
    ):
        failures = [each for each in found.values() if isinstance(each, Failure)]
        assert len(found) == 4
        assert [failure.path for failure in failures] == [other]
        assert opening in failures[0].reason


def test_a_folder_whose_name_ends_like_a_vault_file_makes_no_vault(tmp_path: Path) -> None:
    (tmp_path / "ward.xray").mkdir()
    assert not is_vault(tmp_path)


def test_a_file_that_vanishes_while_others_are_sealed(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "xrays", 40)

    def vanish(done: int) -> None:
        if done == 1:
            sources[-1].path.unlink()

    report = seal_folder(
        sources, tmp_path / "vault", _WRITER, ledger=tmp_path / "ledger", progress=vanish
    )
    assert report.sealed == len(_files(tmp_path)) == 39
    assert report.failures == (Failure(sources[-1].path, "No such file or directory"),)


def test_names_that_are_no_unicode_are_sealed_and_known_again(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(path)
    source = VaultSource(path, "Normal", "x")
    assert _seal(tmp_path, [source]) == SealReport(1, 0, ())
    assert _seal(tmp_path, [source]) == SealReport(0, 1, ())
    report = _seal(tmp_path, [VaultSource(path, "\udce9", "x")])
    assert "no Unicode" in report.failures[0].reason
    assert len(_files(tmp_path)) == 1


@contextmanager
def _full_disk(at: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_nothing_is_left_half_done(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "xrays", 12)
    with _full_disk(100), pytest.raises(DataError, match=r"vault: File too large") as caught:
        _seal(tmp_path, sources)
    assert "it goes on from here" in caught.value.hint
    assert _files(tmp_path) == []
    assert (tmp_path / "ledger").read_bytes() == b""
    with _full_disk(1000), pytest.raises(DataError, match=r"File too large|No space left"):
        _seal(tmp_path, sources)  # it is the ledger that grows that large
    done = len(_files(tmp_path))
    assert 0 < done < 12
    ledger = (tmp_path / "ledger").read_bytes()
    assert ledger.count(b"\n") == done
    assert ledger.endswith(b"\n")
    assert _seal(tmp_path, sources) == SealReport(12 - done, done, ())
    assert len(_files(tmp_path)) == 12


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "xrays")
    for out, ledger in (("/proc/vault", tmp_path / "ledger"), (tmp_path, Path("/proc/ledger"))):
        with pytest.raises(DataError, match=r"/proc/\w+: ") as caught:
            seal_folder(sources, Path(out), _WRITER, ledger=ledger)
        assert "--ledger" in caught.value.hint
    assert not list(tmp_path.glob("*.xray"))


def test_a_vault_whose_key_has_a_damaged_name_shows_the_damage(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "xrays")
    _seal(tmp_path, sources[:1])
    (sealed,) = (tmp_path / "vault").glob("*.xray")
    damaged = bytearray(sealed.read_bytes())
    damaged[20] ^= 1
    sealed.write_bytes(damaged)
    with pytest.raises(VaultError, match="holds X-rays under key") as caught:
        _seal(tmp_path, sources)
    theirs, ours = re.findall("[0-9a-f]{20}", str(caught.value))
    assert theirs != ours


def test_a_vault_has_one_key(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "xrays")
    _seal(tmp_path, sources[:1])
    other = generate_unsafe_key(256)
    with pytest.raises(VaultError, match="holds X-rays under key"):
        _seal(tmp_path, sources, VaultKey(other.public))
    assert len(_files(tmp_path)) == 1


@pytest.mark.parametrize("line", [b"12", b'["a", "b"]', b"{", b"\xff"])
def test_a_damaged_line_of_the_ledger_harms_no_other(tmp_path: Path, line: bytes) -> None:
    sources = _sources(tmp_path / "xrays")
    _seal(tmp_path, sources)
    ledger = tmp_path / "ledger"
    ledger.write_bytes(line + b"\n" + ledger.read_bytes() + line)
    assert _seal(tmp_path, sources) == SealReport(0, 3, ())
