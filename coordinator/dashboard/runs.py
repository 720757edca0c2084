"""The runs in a folder, each followed as its journal grows."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordinator.dashboard.log import Filter, Log
from coordinator.dashboard.state import RunState
from ppfl.errors import RunError
from ppfl.federation import JournalReader

_READ_BYTES = 512 * 1024  # at one time, so that pages are answered meanwhile
_RESCAN_S = 2.0
_FILES = ("journal.jsonl", "study.toml")  # a folder with one of them is a run
_DEPTHS = ("*", "*/*")  # of a folder of runs, and of one of coordinators' folders


class LiveRun:
    """A run that is looked at again and again; all methods may be called from any thread.

    ``name`` tells it from others on the pages.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._lock = threading.Lock()
        self._begin()

    @property
    def report(self) -> Path:
        """Where its report is, once it is written."""
        return self.folder / "report.html"

    def look(self) -> bool:
        """Read on; whether there may be more to read at once."""
        with self._lock:
            read = self._read()
            self._state.tick(time.time())
            return read

    def increment(self, seen: str) -> tuple[str, str] | None:
        """What changed since a place, as JSON, and the new place; None if nothing did.

        Args:
            seen: a place from an earlier call, perhaps on an earlier server, or empty.
        """
        with self._lock:
            mark = f"{self._mark}-{self._state.restarts}"
            before, _, number = seen.rpartition("-")
            known = before == mark and number.isdecimal()
            place = f"{mark}-{self._state.changes.revision}"
            if place == seen:
                return None
            head = {
                "reset": not known,
                "time": time.time(),
                "journal": self._journal_row(),
                "report": self.report.is_file(),
            }
            parts = self._state.to_json(int(number) if known else 0)
            return f'{json.dumps(head)[:-1]},"parts":{parts}}}', place

    def to_overview(self) -> dict[str, Any]:
        """What the list of studies shows of it."""
        with self._lock:
            row = self._state.to_overview() | {"name": self.name, "trouble": self._trouble}
            return row | {"read": self._share(), "report": self.report.is_file()}

    def log(self, chosen: Filter, *, before: int = 0, after: int = 0) -> dict[str, Any]:
        """A page of the log: see ``Log.page``."""
        with self._lock:
            log = self._log
        return log.page(chosen, before=before, after=after)

    def _begin(self) -> None:
        self._reader = JournalReader(self.folder / "journal.jsonl")
        self._state, self._log = RunState(), Log()
        self._mark = secrets.token_hex(6)
        self._lines = self._torn = 0
        self._trouble, self._damaged = "", False

    def _read(self) -> bool:
        try:
            lines = self._reader.read(most=_READ_BYTES)
        except RunError as error:
            if self._reader.offset:
                self._begin()  # another journal lies there now
            self._say(str(error))
            return False
        if not self._damaged:
            self._say("")
        for line in lines:
            if self._damaged:
                break  # it is still looked at, for it may be replaced
            try:
                event = line.event()
            except RunError as error:
                self._damaged = True
                self._say(f"{error}; nothing from there on is shown")
                break
            self._lines = line.number
            self._log.add(line)
            if event is None:
                self._torn += 1
            else:
                self._state.note(event)
        if lines:
            self._state.changes.note("now")
        return bool(lines)

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._state.changes.note("now")

    def _share(self) -> float:
        """How much of the journal was read, in [0, 1]."""
        with suppress(OSError):
            size = self._reader.path.stat().st_size
            return min(self._reader.offset / size, 1.0) if size else 1.0
        return 1.0

    def _journal_row(self) -> dict[str, Any]:
        return {
            "lines": self._lines,
            "read": self._share(),
            "torn": self._torn,
            "trouble": self._trouble,
        }


class Runs:
    """All runs in a folder, also those that come later.

    Args:
        folder: a run's own, or one that holds runs or coordinators' folders.

    Raises:
        RunError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder", hint="name a run, or a folder of runs")
        self._folder = folder.resolve()
        self.single = _is_run(self._folder)
        self._runs: dict[str, LiveRun] = {}
        self._next = 0.0

    def __iter__(self) -> Iterator[LiveRun]:
        return iter(list(self._runs.values()))

    def get(self, name: str) -> LiveRun | None:
        """The run of a name, if there is one."""
        return self._runs.get(name)

    def read(self) -> None:
        """Find all runs, and read each to its end."""
        while self.look():
            pass

    def look(self) -> bool:
        """Look for new runs, and read on in all; whether there may be more to read at once."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _RESCAN_S
            for name, folder in self._find():
                if name not in self._runs:
                    self._runs[name] = LiveRun(name, folder)
        return any([run.look() for run in self])

    def _find(self) -> Iterator[tuple[str, Path]]:
        if self.single:
            yield self._folder.name, self._folder
            return
        for depth in _DEPTHS:
            for folder in sorted(self._folder.glob(depth)):
                if _is_run(folder):
                    yield folder.relative_to(self._folder).as_posix(), folder


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)
