"""Files and folders that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ppfl.errors import RunError, write_error


def replace_private(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that only its owner can read, in place of an older one.

    It is on the disk when this returns. A process that is killed on the way leaves the older file
    as it was, and beside it one unfinished file, which the next call writes anew. Of two processes
    that write the same file one waits for the other.

    Raises:
        OSError: the disk is full, or the file cannot be written; the older one is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    with _locked(part) as file:
        try:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink()
            raise


def _locked(part: Path) -> IO[bytes]:
    """An empty file at this path, which no other process writes until it is closed."""
    while True:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(descriptor, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # whoever had it may have moved it away
            if os.path.samestat(os.fstat(descriptor), os.stat(part)):
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
                return file
        file.close()


def replace_text(path: Path, text: str) -> None:
    """Write a text file that is no key, UTF-8: whole or not at all, in place of an older one.

    Raises:
        RunError: it cannot be written; on a full disk that is a DiskFullError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise write_error(f"{path}: cannot be written", error) from None


@contextmanager
def filled_or_gone(folder: Path) -> Iterator[None]:
    """Take a new folder away again where what belongs in it cannot be had.

    What was left there, as by a full disk, would be in the way of the next try.
    """
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def lock_file(path: Path) -> IO[bytes]:
    """A file that is held until it is closed, or its process ends.

    Raises:
        RunError: another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(f"{path.parent} is in use: its programs are running already") from None
    return file
