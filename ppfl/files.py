"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def replace_private(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that only its owner can read, in place of an older one.

    It is on the disk when this returns. A process that is killed on the way leaves the older file
    as it was, and beside it one unfinished file, which the next call removes.

    Raises:
        OSError: the disk is full, or the file cannot be written; the older one is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
