"""Exit codes, and the page that lists them."""

from __future__ import annotations

import errno
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import ppfl.errors
import simulations.main
from ppfl.errors import DataError, DiskFullError, KeyFileError, PpflError, RunError, write_error
from ppfl.federation import Checkpoint, Journal
from ppfl.federation.journal import RoundStarted
from sites.flower import flower_program

_TOP = Path(__file__).parents[1]
_PAGE = (_TOP / "docs" / "errors.md").read_text()
_ERRORS = [kind for _, kind in inspect.getmembers(ppfl.errors, inspect.isclass)]
_KINDS = [kind for kind in _ERRORS if issubclass(kind, PpflError)]


def _listed() -> list[tuple[int, str]]:
    rows = re.findall(r"^\| (\d+) \| (?:`([a-z-]+)`)? ?\|", _PAGE, re.MULTILINE)
    return [(int(number), code) for number, code in rows]


def test_the_page_lists_every_error_once_and_no_other() -> None:
    wanted = [(kind.exit_code, kind.code) for kind in _KINDS]
    assert len({number for number, _ in wanted}) == len({code for _, code in wanted}) == len(wanted)
    assert sorted(_listed()) == sorted([*wanted, (61, "")])


def test_the_tree_names_every_error() -> None:
    tree = str(ppfl.errors.__doc__).partition("\n\n")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"\w+Error", tree)) == sorted(kind.__name__ for kind in _KINDS)


def _main(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int | str | None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(simulations.main, "_app", fail)
    with pytest.raises(SystemExit) as caught:
        simulations.main.main()
    return caught.value.code


@pytest.mark.parametrize("kind", _KINDS)
def test_each_error_ends_the_program_with_its_code(
    kind: type[PpflError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("it is wrong")
    error.hint = "do this"
    assert _main(monkeypatch, error) == kind.exit_code
    assert capsys.readouterr().err == "ppfl: it is wrong\nhint: do this\n"


def _fail_to_write(why: OSError, kind: type[PpflError]) -> None:
    try:
        raise why
    except OSError:
        raise kind("a: cannot be written") from None


def test_a_full_disk_is_told_from_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a")
    assert _main(monkeypatch, full) == 60
    assert _main(monkeypatch, PermissionError(errno.EACCES, "no", "a")) == 61
    for kind in (KeyFileError, DataError):
        with pytest.raises(PpflError) as caught:
            _fail_to_write(full, kind)
        assert _main(monkeypatch, caught.value) == 60
    assert type(write_error("a", PermissionError(errno.EACCES, "no"))) is RunError


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_record_for_which_there_is_no_room_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskFullError, match="No space left on device"):
        Journal(Path("/dev/full")).write(RoundStarted(round=1, sites=("a",)))
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=full))
        with pytest.raises(DiskFullError, match=r"checkpoint.*No space left") as caught:
            Checkpoint("s", "r", 1, b"total").write(tmp_path / "checkpoint.bin")
    assert _main(monkeypatch, caught.value) == 60
    assert "last complete round" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_message_for_which_there_is_no_room_leaves_the_exit_code(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with open("/dev/full", "wb") as full:
        for command, code in ((("keys", "show"), 22), (("coordinator", "run"), 10)):
            program = [flower_program("ppfl"), *command, missing]
            ended = subprocess.run(program, stdout=full, stderr=full, check=False)
            assert ended.returncode == code


_FILL = """
import sys
from pathlib import Path
from ppfl.crypto.textfile import write_key_text
from ppfl.files import replace_text
from ppfl.errors import DiskFullError
from sites.flower import write_secret
full = Path(sys.argv[1])
(full / "rest").write_bytes(bytes(65536))
tries = [
    lambda path: write_key_text(path, "key", mode=0o600),
    lambda path: replace_text(path, "text"),
    write_secret,
]
for number, write in enumerate(tries):
    path = full / str(number)
    try:
        write(path)
    except DiskFullError as error:
        assert str(error) == f"{path}: cannot be written: No space left on device"
        assert error.hint
        assert not path.exists()
    else:
        sys.exit(f"there was room for {number}")
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here in which to mount a small disk")
    script = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, _FILL]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_TOP)
    assert done.returncode == 0, done.stderr


def test_a_command_line_that_is_wrong_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ppfl", "doctor", "--no-such-option"])
    with pytest.raises(SystemExit) as caught:
        simulations.main.main()
    assert caught.value.code == 2
