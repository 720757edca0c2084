from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppfl.crypto import generate_unsafe_key
from ppfl.errors import DataError, VaultError
from ppfl.xray import vault as module
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

_KEY = generate_unsafe_key(256)
_WRITER, _READER = VaultKey(_KEY.public), VaultKey(_KEY.public, _KEY)


def _pictures(folder: Path, count: int = 6) -> list[VaultSource]:
    folder.mkdir(exist_ok=True)
    sources = []
    for number in range(count):
        path = folder / f"Doe_{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (6, 7), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        sources.append(VaultSource(path, "Normal", f"patient {number}"))
    return sources


def _seal(tmp_path: Path, sources: list[VaultSource]) -> SealReport:
    return seal_folder(sources, tmp_path / "vault", _WRITER, ledger=tmp_path / "ledger")


def _inside(vault: Path) -> list[Path]:
    """All that lies in a vault, but for the file by which runs keep each other out."""
    return sorted(path for path in vault.iterdir() if path.name != ".lock")


def _open(tmp_path: Path) -> dict[str, VaultImage]:
    found = [image for _, image in open_folder(tmp_path / "vault", _READER)]
    return {image.group: image for image in found if isinstance(image, VaultImage)}


def test_a_vault_gives_back_every_picture_and_names_none(tmp_path: Path) -> None:
    sources = _pictures(tmp_path / "xrays")
    done: list[int] = []
    report = seal_folder(
        sources, tmp_path / "vault", _WRITER, ledger=tmp_path / "ledger", progress=done.append
    )
    assert report == SealReport(sealed=6, already=0, failures=())
    assert done == [1, 2, 3, 4, 5, 6]
    images = _open(tmp_path)
    for source in sources:
        image = images[source.group]
        assert (image.pixels == np.asarray(Image.open(source.path))).all()
        assert (image.label, image.bits) == ("Normal", 8)
    for path in _inside(tmp_path / "vault"):
        assert "Doe" not in path.name
        assert b"Doe" not in path.read_bytes()
    assert all(found is None for _, found in check_folder(tmp_path / "vault", _WRITER))
    assert is_vault(tmp_path / "vault")
    assert not is_vault(tmp_path / "xrays")


def test_a_second_run_seals_only_what_is_new_or_changed(tmp_path: Path) -> None:
    sources = _pictures(tmp_path / "xrays")
    _seal(tmp_path, sources)
    before = {path.name: path.read_bytes() for path in _inside(tmp_path / "vault")}
    assert _seal(tmp_path, sources) == SealReport(0, 6, ())
    assert before == {path.name: path.read_bytes() for path in _inside(tmp_path / "vault")}
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(sources[0].path)
    more = [*sources, *_pictures(tmp_path / "late", 1)]
    more[-1] = VaultSource(more[-1].path, "Effusion", "new")
    assert _seal(tmp_path, more) == SealReport(2, 5, ())
    images = _open(tmp_path)
    assert len(images) == 7
    assert images["patient 0"].pixels.shape == (3, 3)
    assert images["new"].label == "Effusion"


def test_what_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    sources = _pictures(tmp_path / "xrays")
    sources[2].path.write_bytes(b"no picture")
    sources[3].path.unlink()
    report = _seal(tmp_path, sources)
    assert report.sealed == 4
    assert [failure.path for failure in report.failures] == [sources[2].path, sources[3].path]
    files = _inside(tmp_path / "vault")
    assert len(files) == 4
    files[1].write_bytes(files[1].read_bytes()[:-1])
    damaged = bytearray(files[2].read_bytes())
    damaged[100] ^= 1
    files[2].write_bytes(damaged)
    found = dict(open_folder(tmp_path / "vault", _READER))
    assert [isinstance(found[path], Failure) for path in files] == [False, True, True, False]
    checked = dict(check_folder(tmp_path / "vault", _WRITER))
    assert isinstance(checked[files[1]], Failure)


def test_a_ledger_of_another_vault_is_refused(tmp_path: Path) -> None:
    sources, ledger = _pictures(tmp_path / "xrays"), tmp_path / "ledger"
    _seal(tmp_path, sources)
    # else a later change would be sealed into one of both, and the other called up to date
    with pytest.raises(VaultError, match="knows 6 X-rays, none of which is in"):
        seal_folder(sources, tmp_path / "other", _WRITER, ledger=ledger)
    seal_folder(sources, tmp_path / "other", _WRITER, ledger=tmp_path / "its own")
    with pytest.raises(VaultError, match="none of which is in"):
        seal_folder(sources, tmp_path / "other", _WRITER, ledger=ledger)
    for path in _inside(tmp_path / "vault")[1:]:
        path.unlink()
    assert _seal(tmp_path, sources) == SealReport(5, 1, ())


@pytest.mark.parametrize("moment", ["part written", "ledger written", "file in place"])
def test_a_run_cut_off_at_any_moment_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class _PowerCutError(Exception):
        pass

    def cut(*arguments: object) -> None:
        if moment == "file in place":
            replace(*arguments)  # type: ignore[arg-type]
        raise _PowerCutError

    sources, replace = _pictures(tmp_path / "xrays"), os.replace
    with monkeypatch.context() as patched:
        if moment == "part written":
            patched.setattr(module._Ledger, "note", cut)
        else:
            patched.setattr(module.os, "replace", cut)
        with pytest.raises(_PowerCutError):
            _seal(tmp_path, sources)
    report = _seal(tmp_path, sources)
    assert report.sealed + report.already == 6
    assert len(_open(tmp_path)) == len(_inside(tmp_path / "vault")) == 6


_KILLED = """
import sys
from pathlib import Path
from ppfl.crypto import read_public_key
from ppfl.xray.vault import VaultSource, seal_folder
from ppfl.xray.vault_file import VaultKey
folder = Path(sys.argv[1])
sources = [VaultSource(path, "Normal", path.stem) for path in sorted(folder.glob("xrays/*.png"))]
key = VaultKey(read_public_key(folder / "public.key", unsafe_bits=True))
print("ready", flush=True)
seal_folder(sources, folder / "vault", key, ledger=folder / "ledger")
"""


@pytest.mark.slow
def test_a_killed_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    from ppfl.crypto import write_public_key

    write_public_key(tmp_path / "public.key", _KEY.public)
    sources = _pictures(tmp_path / "xrays", 300)
    counts = []
    for pause in (0.05, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        counts.append(len(list((tmp_path / "vault").glob("*.xray"))))
    named = [VaultSource(source.path, "Normal", source.path.stem) for source in sources]
    report = _seal(tmp_path, named)
    assert report.sealed == 300 - counts[-1]
    assert len(_open(tmp_path)) == len(_inside(tmp_path / "vault")) == 300


def test_two_runs_at_one_time_and_folders_without_room_are_refused(tmp_path: Path) -> None:
    sources = _pictures(tmp_path / "xrays")
    with (
        module._alone(tmp_path / "ledger"),
        pytest.raises(DataError, match="ledger: another run is sealing"),
    ):
        _seal(tmp_path, sources)
    with (
        module._alone(tmp_path / "vault" / ".lock"),
        pytest.raises(DataError, match="lock: another run is sealing"),
    ):
        _seal(tmp_path, sources)
    with pytest.raises(DataError, match="Not a directory"):
        seal_folder(sources, sources[0].path / "vault", _WRITER, ledger=tmp_path / "ledger")
    with pytest.raises(VaultError, match="holds no vault file"):
        list(open_folder(tmp_path, _READER))
