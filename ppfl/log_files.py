"""Logs that programs write to by themselves, and that do not fill the disk all the same."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

LOG_BYTES = 10_000_000


class BoundedLog:
    """A program's log, of which the last ten to twenty megabytes are kept.

    The program holds the file open, so a long one is not renamed: what is in it is copied to
    ``NAME.log.1``, in place of an earlier copy, and the file is cut to nothing. The program goes
    on at its beginning, because it appends. What it writes between the copy and the cut is lost.

    Args:
        path: the file, with the ending ``.log``; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> IO[bytes]:
        """The file, for a program to append to."""
        self.bound()
        return self.path.open("ab")

    def bound(self) -> None:
        """Lay aside what is in the file, if that is more than it may hold."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size <= LOG_BYTES:
            return
        aside = self.path.with_suffix(".log.1")
        aside.unlink(missing_ok=True)
        with self.path.open("rb+") as log:
            log.seek(size - LOG_BYTES)
            with suppress(OSError), aside.open("wb") as copy:  # a full disk has room after the cut
                shutil.copyfileobj(log, copy)
            os.truncate(log.fileno(), 0)
