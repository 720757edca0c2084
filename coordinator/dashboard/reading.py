"""A journal as far as it was read: what it says of the present, and its log."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from coordinator.dashboard.log import Log
from coordinator.dashboard.state import RunState
from ppfl.errors import RunError
from ppfl.federation import JournalReader, Line
from ppfl.federation.journal import StudyStarted

_READ_BYTES = 512 * 1024  # at one time, so that pages are answered meanwhile


class Reading:
    """What a journal's lines say, from its first one or from near its end.

    ``mark`` tells it from every other reading, ``trouble`` says why it cannot go on, empty if it
    can, and ``lines`` is the number of the last line that was read.

    Args:
        path: the journal; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._reader = JournalReader(path)
        self._damaged = False
        self.state, self.log = RunState(), Log()
        self.mark = secrets.token_hex(6)
        self.lines = self.torn = 0
        self.trouble = ""

    @property
    def begun(self) -> bool:
        """Whether anything was read."""
        return self._reader.offset > 0

    def share(self) -> float:
        """How much of the journal was read, in [0, 1]."""
        try:
            size = self._reader.path.stat().st_size
        except OSError:
            return 1.0
        return min(self._reader.offset / size, 1.0) if size else 1.0

    def to_row(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"lines": self.lines, "torn": self.torn, "trouble": self.trouble}

    def skip(self) -> None:
        """Begin near the end: how the last run began, and then only the last lines.

        Raises:
            RunError: the journal was replaced, or cannot be read.
        """
        start = self._reader.skip(rest=_READ_BYTES, kind=StudyStarted.model_fields["event"].default)
        if start is not None:
            self._take([start])

    def read(self) -> bool:
        """Read on; whether there may be more to read at once.

        Raises:
            RunError: the journal was replaced, or cannot be read.
        """
        lines = self._reader.read(most=_READ_BYTES)
        if not self._damaged:  # else it is still looked at, for it may be replaced
            self.say("")
            self._take(lines)
        return bool(lines)

    def say(self, trouble: str) -> None:
        """Tell that there is trouble, or none."""
        if trouble != self.trouble:
            self.trouble = trouble
            self.state.changes.note("now")

    def _take(self, lines: list[Line]) -> None:
        for line in lines:
            try:
                event = line.event()
            except RunError as error:
                self._damaged = True
                self.say(f"{error}; nothing from there on is shown")
                break
            self.lines = line.number
            self.log.add(line)
            if event is None:
                self.torn += 1
            else:
                self.state.note(event)
        if lines:
            self.state.changes.note("now")
