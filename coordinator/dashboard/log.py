"""The log: events as sentences, filtered."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ppfl.errors import RunError
from ppfl.federation import Line
from ppfl.federation.journal import (
    Alarm,
    AnyEvent,
    LabelsLeftOut,
    LeftHospital,
    MeanXRaysReleased,
    MetricsReleased,
    ModelKept,
    RecordDisputed,
    RecordWitnessed,
    Refused,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
    WillSend,
)

MOST_LINES = 50_000
_PAGE = 100

Kind = Literal["alarms", "rounds", "sites", "metrics", "study"]
_KINDS: dict[str, Kind] = {
    "alarm": "alarms",
    "site_failed": "alarms",
    "site_asked_again": "alarms",
    "study_failed": "alarms",
    "refused": "alarms",
    "record_disputed": "alarms",
    "round_started": "rounds",
    "round_closed": "rounds",
    "round_countersigned": "rounds",
    "record_witnessed": "rounds",
    "site_enrolled": "sites",
    "site_answered": "sites",
    "left_hospital": "sites",
    "will_send": "sites",
    "labels_left_out": "sites",
    "metrics_released": "metrics",
    "mean_xrays_released": "metrics",
}


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
    if chosen.kind and _KINDS.get(line.kind, "study") != chosen.kind:
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
        kind=_KINDS.get(event.event, "study"),
        round=getattr(event, "round", None),
        site=getattr(event, "site", ""),
        text=sentence_of(event),
    )


def sentence_of(event: AnyEvent) -> str:
    """An event as one sentence; its round and site stand beside it."""
    match event:
        case StudyStarted():
            after = f", goes on after round {event.resumed_after}" if event.resumed_after else ""
            return (
                f"study {event.study} began{after}: {len(event.sites)} sites, {event.rounds} "
                f"rounds; protection: {event.protection}"
            )
        case SiteEnrolled():
            return "enrolled"
        case RoundStarted():
            return f"asked {len(event.sites)} sites for updates"
        case SiteAnswered():
            spent = ", ".join(f"{name} {s:.1f} s" for name, s in event.seconds.items())
            clipped = f"; {event.clipped} parameters clipped" if event.clipped else ""
            return f"answered: {spent}; {_size(event.bytes_up)} up{clipped}"
        case SiteAskedAgain():
            return f"was lost ({event.code}), is back, and is asked again"
        case SiteFailed():
            return f"is not in the round ({event.code}): {event.sentence}"
        case RoundClosed():
            return f"closed: {len(event.sites)} sites in the total, {event.seconds:.1f} s"
        case RoundCountersigned():
            return f"countersigned the record of round {event.round}"
        case RecordWitnessed():
            return "countersigned the coordinator's record"
        case RecordDisputed():
            return f"did not countersign the coordinator's record: {event.reason}"
        case MetricsReleased():
            accuracy, images = event.metrics.get("accuracy"), event.metrics.get("images")
            found = "" if accuracy is None else f": accuracy {accuracy:.3f} on {images} images"
            return f"{event.split} metrics released by {len(event.sites)} sites{found}"
        case MeanXRaysReleased():
            return f"mean X-rays of {', '.join(event.pictures) or 'no class'} opened"
        case Alarm():
            return event.sentence
        case StudyClosed():
            return f"closed after {event.rounds} rounds, {event.seconds:.0f} s"
        case StudyFailed():
            return f"the run ended early ({event.code}): {event.sentence}"
        case LeftHospital():
            left = ", ".join(f"{item.what} ({_size(item.bytes)})" for item in event.items)
            return f"left the hospital: {left}"
        case WillSend():
            return f"will send {_size(event.study_bytes_up)} in {event.rounds} rounds"
        case LabelsLeftOut():
            labels = ", ".join(f"{label} ({images})" for label, images in event.labels.items())
            return f"leaves out X-rays of no class of the study: {labels}"
        case Refused():
            return f"refused ({event.code}): {event.reason}"
        case ModelKept():
            return f"keeps the model {event.sha256[:16]}…"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
