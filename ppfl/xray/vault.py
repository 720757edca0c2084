"""A folder of vault files: sealed as X-rays arrive, in any number of runs.

The folder tells how many X-rays it holds, and how large each is; names are random. Which X-ray
lies in which file is written in a ledger that stays with the X-rays themselves, before a file gets
its place, so that a run that was killed leaves nothing undone, doubled or lost.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from ppfl.errors import DataError, PpflError, VaultError
from ppfl.xray.dicom import DicomFacts
from ppfl.xray.files import read_file
from ppfl.xray.pictures import Picture, read_pixels
from ppfl.xray.vault_file import (
    SUFFIX,
    VaultImage,
    VaultKey,
    check_file,
    open_image,
    read_fingerprint,
    seal_image,
    tell_apart,
)

_PART = ".part"
_LOCK = ".lock"
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
    """A file that could not be sealed or opened, why, without its path, and what to do."""

    path: Path
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SealReport:
    """What :func:`seal_folder` did: files sealed now, found sealed already, and failures.

    ``dicom`` is what those of the files sealed now that are DICOM tell beside their pixels.
    """

    sealed: int
    already: int
    failures: tuple[Failure, ...]
    dicom: tuple[DicomFacts, ...] = ()


def seal_folder(
    sources: Sequence[VaultSource],
    out: Path,
    key: VaultKey,
    *,
    ledger: Path,
    progress: Callable[[int], None] | None = None,
) -> SealReport:
    """Seal X-rays into a folder, on all cores; those that the ledger knows are passed over.

    A file whose content has changed since is sealed anew, in place of the old one. An X-ray that
    cannot be read is a failure in the report, and the others go on. ``progress`` is called with
    the number of X-rays done so far.

    Raises:
        DataError: the folder or the ledger cannot be written, or a disk is full, or another run
            holds one of them. What was sealed before counts: run it again.
        VaultError: the folder holds files under another key, or the ledger is of another vault.
    """
    with _locked(out, ledger) as book:
        _check_key(out, key)
        _check_ledger(out, ledger, book)
        for path in out.glob(f"*{_PART}"):
            path.unlink()  # what a killed run had begun
        report = _seal_all(sources, out, key, book, progress)
        _sync_folder(out)
    return report


def open_folder(
    folder: Path, key: VaultKey, *, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Path, VaultImage | Failure]]:
    """The X-rays of a folder, sorted by file name; a file that cannot be opened is a failure.

    Raises:
        VaultError: the folder holds no vault file.
    """
    yield from _look_at_all(folder, lambda data: open_image(data, key), progress)


def check_folder(
    folder: Path, key: VaultKey, *, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Path, Failure | None]]:
    """Whether each file of a folder can be a vault file under the key; needs no private key.

    Raises:
        VaultError: the folder holds no vault file.
    """

    def look(data: bytes) -> None:
        check_file(data, key)

    yield from _look_at_all(folder, look, progress)


def is_vault(folder: Path) -> bool:
    """Whether a folder holds vault files.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return folder.is_dir() and any(path.is_file() for path in folder.glob(f"*{SUFFIX}"))
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read: {error.strerror}") from None


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
            return look(read_file(path))
        except PpflError as error:
            return _failure(path, error)

    yield from _in_order(vault_files(folder), work, progress)


def _seal_all(
    sources: Sequence[VaultSource],
    out: Path,
    key: VaultKey,
    book: _Ledger,
    progress: Callable[[int], None] | None,
) -> SealReport:
    sealed, already = 0, 0
    failures: list[Failure] = []
    dicom: list[DicomFacts] = []

    def work(source: VaultSource) -> Failure | Picture | None:
        try:
            return _seal_one(source, out, key, book)
        except PpflError as error:
            return _failure(source.path, error)

    try:
        for _, result in _in_order(sources, work, progress):
            if isinstance(result, Failure):
                failures.append(result)
            elif result is None:
                already += 1
            else:
                sealed += 1
                dicom += [result.dicom] if result.dicom else []
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: {error.strerror}",
            hint="make room, or name a folder that can be written; run again, it goes on from here",
        ) from None
    return SealReport(sealed, already, tuple(failures), tuple(dicom))


def _seal_one(source: VaultSource, out: Path, key: VaultKey, book: _Ledger) -> Picture | None:
    """The X-ray, if it had to be sealed."""
    data = read_file(source.path)
    text = json.dumps([source.label, source.group]).encode()
    digest = hashlib.sha256(text + data).hexdigest()
    known = book.find(source.path)
    if known and known.digest == digest and (out / known.name).exists():
        return None
    picture = read_pixels(source.path, data=data)
    sealed = seal_image(VaultImage(picture.pixels, picture.bits, source.label, source.group), key)
    name = known.name if known else f"{secrets.token_hex(16)}{SUFFIX}"
    # until the new file has its place, the ledger must not say that it is there
    part = out / f"{name}{_PART}"
    try:
        with part.open("wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        if known and known.digest != digest:
            (out / name).unlink(missing_ok=True)
            _sync_folder(out)
        book.note(source.path, name, digest)
        os.replace(part, out / name)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    return picture


def _check_key(out: Path, key: VaultKey) -> None:
    """Make sure that files of another key are not in the folder: nobody could train on both."""
    for path in out.glob(f"*{SUFFIX}"):
        try:
            found = read_fingerprint(path)
        except DataError:
            continue  # `ppfl vault verify` names it
        if found != key.public.fingerprint:
            theirs, ours = tell_apart(found, key.public.fingerprint)
            raise VaultError(
                f"{out}: holds X-rays under key {theirs}, this key is {ours}",
                hint="seal into another folder, with a --ledger of its own",
            )
        return


def _check_ledger(out: Path, ledger: Path, book: _Ledger) -> None:
    """Make sure that a ledger is not of another vault: each would hide the other's changes."""
    names = book.names
    if names and not any((out / f"{name}{end}").exists() for name in names for end in ("", _PART)):
        raise VaultError(
            f"{ledger}: knows {len(names)} X-rays, none of which is in {out}",
            hint="name this vault's own ledger with --ledger; if all its files were deleted, "
            "remove the ledger",
        )


def _failure(path: Path, error: PpflError) -> Failure:
    return Failure(path, str(error).removeprefix(f"{path}: "), error.hint)


def _sync_folder(folder: Path) -> None:
    """Files that were put in or taken out are so on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Line:
    """What the ledger knows of an X-ray: its file in the vault, and the digest of what it was."""

    name: str
    digest: str


class _Ledger:
    """One line of JSON for each X-ray, the last one counts.

    Args:
        file: open for reading and appending, without a buffer.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.write(b"\n")  # a line torn by a crash stays a line of its own
        for line in text.splitlines():
            try:
                source, name, digest = json.loads(line)
            except (TypeError, ValueError):
                continue  # torn by a crash: what it announced was not yet begun
            self._lines[source] = _Line(name, digest)

    @property
    def names(self) -> set[str]:
        """The files that X-rays are in."""
        return {line.name for line in self._lines.values()}

    def find(self, source: Path) -> _Line | None:
        return self._lines.get(os.path.abspath(source))

    def note(self, source: Path, name: str, digest: str) -> None:
        """On disk when this returns."""
        place = os.path.abspath(source)
        line = json.dumps([place, name, digest]).encode() + b"\n"
        with self._lock:
            end = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(end)  # else the next line would go on in this one
                raise
            self._lines[place] = _Line(name, digest)


@contextmanager
def _locked(out: Path, ledger: Path) -> Iterator[_Ledger]:
    """The ledger, held by this run alone, as is the vault."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out / _LOCK), _alone(ledger) as file:
            yield _Ledger(file)
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: {error.strerror}",
            hint="name places that can be written, with --ledger if the X-rays are read-only",
        ) from None


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """A file that no other run opens at the same time, made for its owner if it is not there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{path}: another run is sealing") from None
        file.seek(0)
        yield file


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
    with ThreadPoolExecutor(cores + 1) as pool:  # one waits for the disk most of the time
        ahead: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) > 2 * cores:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
