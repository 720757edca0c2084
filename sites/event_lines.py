"""What happens, as lines on a terminal: each event of a journal, and what a site is doing."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ppfl.errors import RunError
from ppfl.federation import JournalReader
from ppfl.federation.journal import AnyEvent, RecordWitnessed, RoundCountersigned
from ppfl.report.sentences import KINDS, sentence_of
from sites.phase import WORDS, read_phase

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_UNTOLD = (RoundCountersigned, RecordWitnessed)  # one a site and round, and nothing to do about
_TENTHS, _EVERY_S = 10, 10.0  # how often it is told how much of an answer has left
_STYLES = {"alarms": "bold red", "rounds": "bold", "metrics": "green", "study": "bold"}


class JournalLines:
    """Prints a line for each event that is written to a journal from now on.

    Args:
        path: the journal; it need not exist yet.
        console: where to.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self._console, self._trouble = console, ""
        self._reader = JournalReader(path)
        self._reader.skip()

    def look(self) -> list[AnyEvent]:
        """Print what is new; the events of it.

        Nothing is raised for a journal that cannot be read on: what it tells is only shown here.
        """
        events: list[AnyEvent] = []
        try:
            for line in self._reader.read():
                if not self._trouble and (event := line.event()) is not None:
                    events.append(event)
                    self._tell(event)
        except RunError as error:
            if not self._trouble:
                self._trouble = f"{error}; nothing from there on is shown"
                _print(self._console, datetime.now().astimezone(), self._trouble, "bold red")
        return events

    def _tell(self, event: AnyEvent) -> None:
        if not isinstance(event, _UNTOLD):
            style = _STYLES.get(KINDS.get(event.event, "study"), "")
            _print(self._console, event.time, line_of(event), style)


class PhaseLines:
    """Prints a line when a site begins with another phase of its work.

    While it sends its sealed answer there is a line for each tenth that has left, and one every
    ten seconds if something has left since the last.

    Args:
        work: the site's own folder.
        console: where to.
    """

    def __init__(self, work: Path, console: Console) -> None:
        self._work, self._console = work, console
        self._seen, self._sent, _ = self._read()
        self._told_s = time.monotonic()

    def look(self) -> None:
        """Print the phase if it is another one, and how much has left if that is news."""
        seen, sent, of = self._read()
        if seen != self._seen:
            was, self._seen = self._seen, seen
            number, phase = seen
            if phase in WORDS:
                self._sent = 0
                self._tell(WORDS[phase])
            if was == (number, "upload") and sent == of:  # it ended between two looks
                self._tell_sent(sent, of)
        elif seen[1] == "upload":
            self._tell_sent(sent, of)

    def _tell_sent(self, sent: int, of: int) -> None:
        due = time.monotonic() - self._told_s >= _EVERY_S and sent != self._sent
        if of and (due or _TENTHS * sent // of > _TENTHS * self._sent // of):
            self._sent = sent
            self._tell(f"{WORDS['upload']}, {100 * sent // of} % of {of / 1e6:.1f} MB have left")

    def _tell(self, text: str) -> None:
        self._told_s = time.monotonic()
        _print(self._console, datetime.now().astimezone(), f"{_where(self._seen[0])}{text}", "dim")

    def _read(self) -> tuple[tuple[int, str], int, int]:
        """The round and the phase, and of the phase how much is done and how much there is."""
        state = read_phase(self._work)
        phase = state.get("round", 0), state.get("phase", "")
        return phase, state.get("done", 0), state.get("of", 0)


def line_of(event: AnyEvent) -> str:
    """An event as one line without its time: the round, the site, and what happened."""
    number, site = getattr(event, "round", None), getattr(event, "site", "")
    return f"{_where(number)}{site}{' ' * bool(site)}{sentence_of(event)}"


def _where(number: int | None) -> str:
    if number is None:
        return ""
    return f"round {number}: " if number else "before round 1: "


def _print(console: Console, time: datetime, text: str, style: str) -> None:
    """Print a line; what others sent in it can neither style it nor steer the terminal."""
    shown = "".join(each if each.isprintable() else "�" for each in text)
    line = Text(f"{time.astimezone():{TIME_FORMAT}}  ", style="dim").append(shown, style=style)
    console.print(line, highlight=False, soft_wrap=True)
