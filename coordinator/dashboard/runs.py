"""The runs in a folder, each followed as its journal grows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.dashboard.log import Filter
from coordinator.dashboard.reading import Reading
from ppfl.errors import RunError
from ppfl.uploads import UPLOADS, read_uploads

_RESCAN_S = 2.0
_FILES = ("journal.jsonl", "study.toml")  # a folder with one of them is a run
_DEPTHS = ("*", "*/*")  # of a folder of runs, and of one of coordinators' folders


class LiveRun:
    """A run that is looked at again and again; all methods may be called from any thread.

    A long journal is shown from near its end until all of it was read, which may take a minute:
    at once, the present is right, while counts, curves and what is over are of its last lines.
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
            more = self._read()
            state = self._shown.state
            state.tick(time.time())
            running = state.state == "running"
            state.note_uploads(read_uploads(self.folder / UPLOADS) if running else {})
            return more

    def increment(self, seen: str) -> tuple[str, str] | None:
        """What changed since a place, as JSON, and the new place; None if nothing did.

        Args:
            seen: a place from an earlier call, perhaps on an earlier server, or empty.
        """
        with self._lock:
            state = self._shown.state
            mark = f"{self._shown.mark}-{state.restarts}"
            before, _, number = seen.rpartition("-")
            known = before == mark and number.isdecimal()
            place = f"{mark}-{state.changes.revision}"
            if place == seen:
                return None
            head = {
                "reset": not known,
                "time": time.time(),
                "journal": self._journal_row(),
                "report": self.report.is_file(),
            }
            parts = state.to_json(int(number) if known else 0)
            return f'{json.dumps(head)[:-1]},"parts":{parts}}}', place

    def to_overview(self) -> dict[str, Any]:
        """What the list of studies shows of it."""
        with self._lock:
            row = self._shown.state.to_overview() | {"name": self.name, "read": self._share()}
            return row | {"trouble": self._shown.trouble, "report": self.report.is_file()}

    def to_figures(self) -> dict[str, Any]:
        """What :mod:`coordinator.dashboard.metrics` tells of it."""
        with self._lock:
            return self._shown.state.to_figures() | {"journal": self._journal_row()}

    def log(self, chosen: Filter, *, before: int = 0, after: int = 0) -> dict[str, Any]:
        """A page of the log: see ``Log.page``."""
        with self._lock:
            log = self._shown.log
        return log.page(chosen, before=before, after=after)

    def _begin(self) -> None:
        self._whole = self._shown = Reading(self.folder / "journal.jsonl")

    def _read(self) -> bool:
        try:
            first = not self._whole.begun
            more = self._whole.read()
            if first and self._whole.share() < 1:
                self._shown = Reading(self.folder / "journal.jsonl")
                self._shown.skip()
            if self._shown is not self._whole:
                self._shown.read()
                self._shown.state.changes.note("now")  # how much was read
                if not more or self._whole.trouble:
                    self._shown = self._whole
        except RunError as error:
            if self._whole.begun:
                self._begin()  # another journal lies there now
            self._shown.say(str(error))
            return False
        return more

    def _share(self) -> float:
        return 1.0 if self._shown is self._whole else self._whole.share()

    def _journal_row(self) -> dict[str, Any]:
        return {"read": self._share()} | self._shown.to_row()


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
    try:
        return any((folder / name).is_file() for name in _FILES)
    except OSError:  # another user's, perhaps
        return False
