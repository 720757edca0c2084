"""Files that others made: read whole, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ppfl.errors import DataError

_MOST_BYTES = 2**30  # far above the largest X-ray, in the clear or sealed


def read_file(path: Path, *, first: int = -1) -> bytes:
    """What a file holds, or its ``first`` bytes.

    Raises:
        DataError: it cannot be read, is no file (which a pipe is not, on which one would wait for
            ever), or larger than any X-ray; the message does not name it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DataError("not a file")
            if found.st_size > _MOST_BYTES:
                raise DataError(f"{found.st_size} bytes, at most {_MOST_BYTES} can be an X-ray")
            return file.read(first)
    except OSError as error:
        raise DataError(error.strerror or "cannot be read") from None


def _open_at_once(path: str, flags: int) -> int:
    """A descriptor, even of a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)
