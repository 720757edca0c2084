"""The text that key files are made of: a first line, then `name: value`, long values continued.

The format is specified in docs/formats.md.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ppfl.errors import KeyAccessError, KeyFileError, write_error
from ppfl.files import filled_or_gone

_LARGEST_FILE = 64 * 1024
_LINE = 76


def format_fields(magic: str, fields: Mapping[str, str]) -> str:
    """The text of a file that begins with ``magic`` and holds these fields, ASCII."""
    lines = [magic]
    for name, value in fields.items():
        first, rest = value[: _LINE - len(name)], value[_LINE - len(name) :]
        lines.append(f"{name}: {first}")
        lines += [f"  {rest[start : start + _LINE]}" for start in range(0, len(rest), _LINE)]
    return "\n".join(lines) + "\n"


def parse_fields(text: str, magic: str, names: Sequence[str], *, where: str) -> dict[str, str]:
    """The fields in a text, which must be exactly those named, in this order.

    Raises:
        KeyFileError: the text is of another kind, or lacks a line; ``where`` begins the message.
    """
    lines = text.splitlines()
    if not lines or lines[0] != magic:
        raise KeyFileError(f"{where}: does not begin with “{magic}”")
    fields: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line.startswith("  ") and name:
            fields[name] += line.strip()
        else:
            name, _, value = line.partition(": ")
            fields[name] = value
    if tuple(fields) != tuple(names):
        raise KeyFileError(f"{where}: must hold exactly the lines {', '.join(names)}")
    return fields


def read_key_text(path: Path) -> str:
    """The text of a key file.

    Raises:
        KeyFileError: the file is missing, too large, or no ASCII text.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise KeyFileError(f"{path}: too large for a key file")
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such key file") from None
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(f"{path}: not a readable text file") from None


def write_key_text(path: Path, text: str, *, mode: int) -> None:
    """Write a new key file, on the disk when this returns; no file is ever overwritten.

    Raises:
        KeyFileError: the file exists, or cannot be created.
        RunError: it cannot be written, and nothing is left of it; on a full disk that is a
            DiskFullError.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: a file of this name exists, and no key is ever overwritten",
            hint="choose another name, or move the old key away yourself",
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be created: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise write_error(f"{path}: cannot be written", error) from None


@contextmanager
def new_key_folder(folder: Path) -> Iterator[None]:
    """Make a folder for keys, mode 0700, which goes again where what belongs in it cannot be had.

    Raises:
        KeyFileError: it is there already and not empty, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        filled = any(folder.iterdir())
    except OSError as error:
        raise KeyFileError(f"{folder}: cannot be made: {error.strerror}") from None
    if filled:
        raise KeyFileError(
            f"{folder}: is there already and not empty, and no key is ever overwritten",
            hint="name a folder that does not exist yet",
        )
    with filled_or_gone(folder):
        yield


def require_private(path: Path) -> None:
    """Check that a private key file is this user's, and that nobody else can read it.

    Raises:
        KeyAccessError: it belongs to another user, or its mode allows more than 0600.
        KeyFileError: there is none.
    """
    try:
        status = path.stat()
    except OSError:
        raise KeyFileError(f"{path}: no such key file") from None
    if status.st_mode & 0o077:
        raise KeyAccessError(
            f"{path}: others than its owner can read this private key", hint=f"chmod 600 {path}"
        )
    if status.st_uid != os.geteuid():
        owner, user = (_user(number) for number in (status.st_uid, os.geteuid()))
        raise KeyAccessError(
            f"{path}: this private key belongs to {owner}, and this program runs as {user}",
            hint=f"run it as {owner}, or, if the key is yours: chown {user} {path}",
        )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container may not know the user it runs as
        return f"user {number}"
