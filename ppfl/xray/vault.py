"""A folder of vault files: sealed as X-rays arrive, in any number of runs.

The folder tells how many X-rays it holds, and how large each is; names are random. Which X-ray
lies in which file is written in a ledger that stays with the X-rays themselves, before a file gets
its place, so that a run that was killed leaves nothing undone, doubled or lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from ppfl.crypto import Engine
from ppfl.errors import DataError, PpflError, VaultError
from ppfl.xray.pictures import Picture, read_pixels
from ppfl.xray.vault_file import SUFFIX, VaultImage, open_image, read_header, seal_image

_PART = ".part"
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class VaultSource:
    """An X-ray to be sealed: its file, its class, its patient group."""

    path: Path
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be sealed or opened, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class SealReport:
    """What :func:`seal_folder` did: files sealed now, found sealed already, and failures."""

    sealed: int
    already: int
    failures: tuple[Failure, ...]


def seal_folder(
    sources: Sequence[VaultSource],
    out: Path,
    engine: Engine,
    *,
    ledger: Path,
    progress: Callable[[int], None] | None = None,
) -> SealReport:
    """Seal X-rays into a folder, on all cores; those that the ledger knows are passed over.

    A file whose content has changed since is sealed anew, in place of the old one. An X-ray that
    cannot be read is a failure in the report, and the others go on. ``progress`` is called with
    the number of X-rays done so far.

    Raises:
        DataError: a folder cannot be written, the ledger is damaged, or another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _locked(ledger) as book:
            for path in out.glob(f"*{_PART}"):
                path.unlink()  # what a killed run had begun
            return _seal_all(sources, out, engine, book, progress)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror}") from None


def open_folder(
    folder: Path, engine: Engine, *, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Path, VaultImage | Failure]]:
    """The X-rays of a folder, sorted by file name; a file that cannot be opened is a failure.

    Raises:
        VaultError: the folder holds no vault file.
    """
    yield from _look_at_all(folder, lambda data: open_image(data, engine), progress)


def check_folder(
    folder: Path, engine: Engine, *, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Path, Failure | None]]:
    """Whether each file of a folder can be a vault file under the key; needs no private key.

    Raises:
        VaultError: the folder holds no vault file.
    """

    def look(data: bytes) -> None:
        count = read_header(data, engine)
        engine.check(data[-count * engine.ciphertext_bytes :])

    yield from _look_at_all(folder, look, progress)


def is_vault(folder: Path) -> bool:
    """Whether a folder holds vault files."""
    return folder.is_dir() and any(folder.glob(f"*{SUFFIX}"))


def vault_files(folder: Path) -> list[Path]:
    """The vault files of a folder, sorted by name.

    Raises:
        VaultError: there are none.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise VaultError(f"{folder}: holds no vault file", hint="ppfl vault seal DIR OUT makes one")
    return paths


def _look_at_all(
    folder: Path, look: Callable[[bytes], R], progress: Callable[[int], None] | None
) -> Iterator[tuple[Path, R | Failure]]:
    """What each vault file of a folder tells, or why it tells nothing."""

    def work(path: Path) -> R | Failure:
        try:
            return look(path.read_bytes())
        except PpflError as error:
            return Failure(path, str(error))
        except OSError as error:
            return Failure(path, error.strerror or "cannot be read")

    yield from _in_order(vault_files(folder), work, progress)


def _seal_all(
    sources: Sequence[VaultSource],
    out: Path,
    engine: Engine,
    book: _Ledger,
    progress: Callable[[int], None] | None,
) -> SealReport:
    sealed, already, failures = 0, 0, []

    def work(source: VaultSource) -> Failure | bool:
        try:
            return _seal_one(source, out, engine, book)
        except PpflError as error:
            return Failure(source.path, str(error))

    for _, result in _in_order(sources, work, progress):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            sealed, already = sealed + result, already + (not result)
    return SealReport(sealed, already, tuple(failures))


def _seal_one(source: VaultSource, out: Path, engine: Engine, book: _Ledger) -> bool:
    """Whether the X-ray had to be sealed."""
    try:
        data = source.path.read_bytes()
    except OSError as error:
        raise DataError(f"{source.path}: {error.strerror}") from None
    text = json.dumps([source.label, source.group]).encode()
    digest = hashlib.sha256(text + data).hexdigest()
    known = book.find(source.path)
    if known and known.digest == digest and (out / known.name).exists():
        return False
    picture: Picture = read_pixels(source.path)
    image = VaultImage(picture.pixels, picture.bits, source.label, source.group)
    sealed = seal_image(image, engine)
    name = known.name if known else f"{secrets.token_hex(16)}{SUFFIX}"
    # until the new file has its place, the ledger must not say that it is there
    part = out / f"{name}{_PART}"
    with part.open("wb") as file:
        file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
    if known and known.digest != digest:
        (out / name).unlink(missing_ok=True)
    book.note(source.path, name, digest)
    os.replace(part, out / name)
    return True


@dataclass(frozen=True, slots=True)
class _Line:
    """What the ledger knows of an X-ray: its file in the vault, and the digest of what it was."""

    name: str
    digest: str


class _Ledger:
    """One line of JSON for each X-ray, the last one counts."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        for line in file.read().splitlines():
            try:
                source, name, digest = json.loads(line)
            except ValueError:
                continue  # torn by a crash: what it announced was not yet begun
            self._lines[source] = _Line(name, digest)

    def find(self, source: Path) -> _Line | None:
        return self._lines.get(os.path.abspath(source))

    def note(self, source: Path, name: str, digest: str) -> None:
        """On disk when this returns."""
        place = os.path.abspath(source)
        with self._lock:
            self._file.write(json.dumps([place, name, digest]).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._lines[place] = _Line(name, digest)


@contextmanager
def _locked(ledger: Path) -> Iterator[_Ledger]:
    descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{ledger}: another run is sealing these X-rays") from None
        file.seek(0)
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.write(b"\n")  # a line torn by a crash stays a line of its own
        file.seek(0)
        yield _Ledger(file)


def _in_order(
    items: Sequence[T], work: Callable[[T], R], progress: Callable[[int], None] | None
) -> Iterator[tuple[T, R]]:
    """Each item with its result, on all cores, never many results ahead of whoever takes them."""
    for done, pair in enumerate(_results(items, work), start=1):
        yield pair
        if progress:
            progress(done)


def _results(items: Sequence[T], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        ahead: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) > 2 * cores:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
