"""The log: events as sentences, filtered."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from ppfl.errors import RunError
from ppfl.federation import Line
from ppfl.report.sentences import KINDS, Kind, sentence_of

MOST_LINES = 50_000
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log; ``number`` is its line in the journal."""

    number: int
    time: str
    kind: Kind
    round: int | None
    site: str
    text: str


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show: empty for all."""

    kind: str = ""
    site: str = ""
    text: str = ""


class Log:
    """The last lines of a journal, read again only when someone asks for them."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=MOST_LINES)
        self._lock = threading.Lock()

    def add(self, line: Line) -> None:
        """Take in the journal's next line."""
        with self._lock:
            self._lines.append(line)

    def page(self, chosen: Filter, *, before: int = 0, after: int = 0) -> dict[str, Any]:
        """The newest lines that pass a filter, at most some hundred, the newest first.

        Args:
            chosen: what to show.
            before: only lines before this number; 0 for all.
            after: only lines after this number.

        Returns:
            ``entries``; ``more``: whether older ones were left out; ``last``: the number of the
            newest line that was looked at; ``kept``: the number of the oldest line kept here.
        """
        with self._lock:
            lines = self._lines.copy()
        entries: list[Entry] = []
        more = False
        for line in reversed(lines):
            if line.number <= after:
                break
            if (before and line.number >= before) or not _may_pass(line, chosen):
                continue
            entry = _entry_of(line)
            if entry is None or not _passes(entry, chosen):
                continue
            if len(entries) == _PAGE:
                more = True
                break
            entries.append(entry)
        return {
            "entries": [asdict(entry) for entry in entries],
            "more": more,
            "last": lines[-1].number if lines else 0,
            "kept": lines[0].number if lines else 0,
        }


def _may_pass(line: Line, chosen: Filter) -> bool:
    """A quick look at the line, before it is read."""
    if chosen.kind and KINDS.get(line.kind, "study") != chosen.kind:
        return False
    return chosen.site.encode() in line.raw


def _passes(entry: Entry, chosen: Filter) -> bool:
    if chosen.site and entry.site != chosen.site:
        return False
    return chosen.text.casefold() in f"{entry.text} {entry.site}".casefold()


def _entry_of(line: Line) -> Entry | None:
    try:
        event = line.event()
    except RunError:
        return None
    if event is None:
        return None
    return Entry(
        number=line.number,
        time=event.time.isoformat(timespec="milliseconds"),
        kind=KINDS.get(event.event, "study"),
        round=getattr(event, "round", None),
        site=getattr(event, "site", ""),
        text=sentence_of(event),
    )
