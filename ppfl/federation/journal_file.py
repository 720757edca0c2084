"""The journal's file: one event a line, each line bound to the one before (docs/journal.md)."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from ppfl.crypto.signing import Signer
from ppfl.errors import RunError, write_error
from ppfl.federation.journal import JOURNAL_VERSION, AnyEvent, Event, Record
from ppfl.federation.records import record_statement

_ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
EventT = TypeVar("EventT", bound=Event)
_BLOCK = 64 * 1024
_BATCH = 8 * 1024 * 1024
_KIND = b'"event":"'
_HEAD = 400  # bytes within which a line names its event


class Journal:
    """Appends events to a file; an event is on disk when ``write`` returns.

    Each one gets the SHA-256 of the line before it, whichever process wrote that.

    Args:
        path: the file; it need not exist yet.
        signer: who signs the records in it.
    """

    def __init__(self, path: Path, *, signer: Signer | None = None) -> None:
        self.path, self._signer = path, signer

    def write(self, event: Event) -> bytes:
        """Append one event; its line.

        Raises:
            DiskFullError: there is no room for it.
            RunError: the file cannot be written, or is a journal of another version.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # a site's old process may not have ended yet
                before, table = _end_of(file)
                if table:
                    _check_version(table, str(self.path))
                # a torn last line, from a crash, stays a line of its own
                torn = bool(before) and not before.endswith(b"\n")
                before = before.removesuffix(b"\n")
                previous = hashlib.sha256(before).hexdigest() if before else ""
                raw = self._line(event.model_copy(update={"previous": previous}))
                file.write(b"\n" * torn + raw + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(f"{self.path}: cannot be written", error) from None
        return raw

    def _line(self, event: Event) -> bytes:
        raw = event.model_dump_json().encode()
        if self._signer is None or not isinstance(event, Record):
            return raw
        signature = self._signer.sign(record_statement(raw, ""))
        return event.model_copy(update={"signature": signature}).model_dump_json().encode()


class Line(NamedTuple):
    """One line of a journal; its event is read when it is asked for, which costs the most.

    ``number`` counts from 1 and is 0 where the lines before were not read, ``start`` is where in
    the file it begins, ``raw`` is without the end of the line.
    """

    path: Path
    number: int
    start: int
    raw: bytes

    @property
    def kind(self) -> str:
        """The event's name, as it is found at the line's beginning; empty where there is none."""
        begin = self.raw.find(_KIND, 0, _HEAD) + len(_KIND)
        if begin < len(_KIND):
            return ""
        return self.raw[begin : self.raw.find(b'"', begin)].decode("ascii", "replace")

    @property
    def is_torn(self) -> bool:
        """Whether a crash left only a part of it, of which no event can be made."""
        return _parse(self.raw) is None

    def event(self) -> AnyEvent | None:
        """The event, None for a line that a crash tore.

        Raises:
            RunError: the line is whole, but of another version or of no known event.
        """
        try:
            return _ADAPTER.validate_json(self.raw)
        except ValidationError:
            table = _parse(self.raw)
        if table is None:
            return None
        where = f"{self.path}, line {self.number}" if self.number else str(self.path)
        _check_version(table, where)
        raise RunError(
            f"{where}: no event of version {JOURNAL_VERSION}",
            hint="it was changed, or written by another ppfl; `ppfl audit` says more",
        )


class JournalReader:
    """Reads a journal as it grows, each line once.

    Args:
        path: the journal; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start, self._number, self._file = 0, 0, 0

    @property
    def offset(self) -> int:
        """Bytes that were read: whole lines only."""
        return self._start

    def read(self, *, most: int = _BATCH) -> list[Line]:
        """The lines that have ended since the last call, none if there are no new ones.

        They are about ``most`` bytes together, and at least one line, so that a long journal can
        be shown while it is read: call again until the list is empty. A line without an end stays
        for a later call; it is being written, or a crash tore it.

        Raises:
            RunError: the file was cut or replaced; a new reader starts from its beginning.
        """
        lines = []
        for raw in self._read_whole(most).split(b"\n")[:-1]:
            self._number += 1
            lines.append(Line(self.path, self._number, self._start, raw))
            self._start += len(raw) + 1
        return lines

    def skip(self, *, rest: int = 0, kind: str = "") -> Line | None:
        """Pass over all lines that are there, but for about the last ``rest`` bytes.

        Returns:
            The last line that was passed over and names its event ``kind``, if there is one.

        Raises:
            RunError: as ``read`` does.
        """
        found, mark = None, _KIND + kind.encode() + b'"'
        size = self.path.stat().st_size if self.path.exists() else 0
        while self._start < size - rest:
            data = self._read_whole(min(_BATCH, size - rest - self._start))
            if not data:
                break
            if (place := data.rfind(mark)) >= 0:
                begin = data.rfind(b"\n", 0, place) + 1
                number = self._number + data.count(b"\n", 0, begin) + 1
                raw = data[begin : data.index(b"\n", place)]
                found = Line(self.path, number, self._start + begin, raw)
            self._number += data.count(b"\n")
            self._start += len(data)
        return found

    def unfinished(self) -> Line | None:
        """What follows the last line end, if anything does; it is read again later."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                raw = file.readline()
        except OSError:
            return None
        return Line(self.path, self._number + 1, self._start, raw) if raw else None

    def _read_whole(self, most: int) -> bytes:
        """About ``most`` of the bytes to come: whole lines, at least one if there is one."""
        try:
            with self.path.open("rb") as file:
                self._check_same(file)
                file.seek(self._start)
                data = file.read(most)
                if b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            if self._start:
                raise self._replaced() from None
            return b""
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read: {error.strerror}") from None
        return data[: data.rfind(b"\n") + 1]

    def _check_same(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        if status.st_size < self._start or (self._start and status.st_ino != self._file):
            raise self._replaced()
        self._file = status.st_ino

    def _replaced(self) -> RunError:
        return RunError(f"{self.path}: was cut or replaced while it was read")


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a journal, also the last if a crash tore it.

    Raises:
        RunError: the file is missing, or cannot be read.
    """
    if not path.exists():
        raise RunError(f"{path}: no such journal")
    reader = JournalReader(path)
    while lines := reader.read():
        yield from lines
    last = reader.unfinished()
    if last is not None:
        yield last


def iterate_journal(path: Path) -> Iterator[AnyEvent]:
    """The events of a journal, one by one; a line torn by a crash is left out.

    Raises:
        RunError: the file is missing, or a line is whole, but no event of this version.
    """
    for line in read_lines(path):
        event = line.event()
        if event is not None:
            yield event


def read_journal(path: Path) -> list[AnyEvent]:
    """All of them at once, for a journal that is short; raises as ``iterate_journal`` does."""
    return list(iterate_journal(path))


def read_events(path: Path, kind: type[EventT]) -> Iterator[EventT]:
    """The events of one kind in a journal, none if there is no journal; no others are parsed.

    Raises:
        RunError: the file cannot be read, or such a line is whole, but no event of this version.
    """
    name = kind.model_fields["event"].default
    for line in read_lines(path) if path.exists() else ():
        if line.kind == name and isinstance(event := line.event(), kind):
            yield event


def read_last_event(path: Path) -> AnyEvent | None:
    """The last event of a journal, without reading the others; None if there is none.

    Raises:
        RunError: it is of another version, or no known event.
    """
    try:
        with path.open("rb") as file:
            end, _ = _end_of(file)
    except OSError:
        return None
    return Line(path, 0, 0, end.partition(b"\n")[0]).event()


def _check_version(table: dict[str, Any], where: str) -> None:
    found = table.get("version")
    if found != JOURNAL_VERSION:
        raise RunError(
            f"{where}: is of journal version {found}, and this ppfl has version {JOURNAL_VERSION}",
            hint="use the version of ppfl that wrote it, or begin a run in a new folder",
        )


def _parse(raw: bytes) -> dict[str, Any] | None:
    """The object in a line; None where a crash tore it: no beginning of an object is one."""
    try:
        table = from_json(raw)
    except ValueError:
        return None
    return table if isinstance(table, dict) else None


def _end_of(file: BinaryIO) -> tuple[bytes, dict[str, Any] | None]:
    """A journal from its last whole line on, and the object in that line.

    All of it, and None, where no line is whole.
    """
    start, end = file.seek(0, os.SEEK_END), b""
    while start:
        step = min(start, max(_BLOCK, len(end)))
        start -= step
        file.seek(start)
        end = file.read(step) + end
        stop = len(end)
        while stop > 0:
            begin = end.rfind(b"\n", 0, stop) + 1
            if not begin and start:
                break  # this line begins further up
            table = _parse(end[begin:stop])
            if table is not None:
                return end[begin:], table
            stop = begin - 1
    return end, None
