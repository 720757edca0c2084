"""Each site of a run as the coordinator saw it, and what it probably does at present."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ppfl.federation.journal import SiteAnswered, SiteFailed
from sites.phase import WORDS

PHASES = ("expected", "enrolled", "working", "done", "late", "lost", "refused", "stopped")
_STEPS = ("open", "evaluate", "train", "seal")  # of an update, in this order


@dataclass(slots=True)
class SiteState:
    """One site.

    ``phase`` is what the journal says, one of ``PHASES``. A site tells nothing between a request
    and its answer, so what a working one does is estimated from ``last``, its last answer. Times
    are seconds since 1970; ``seconds`` is how long that answer took, from request to arrival.
    ``phase_seconds`` are those of all its answers together. ``sent`` are the bytes that have come
    in of an answer which is on its way, None while there is none: they are the gateway's count, not
    the journal's.
    """

    phase: str = "expected"
    round: int = 0
    since: float = 0.0
    note: str = ""
    seconds: float = 0.0
    last: SiteAnswered | None = None
    enrolments: int = 0
    enrolment_bytes: int = 0
    updates: int = 0
    update_bytes: int = 0
    xray_bytes: int = 0
    clear_bytes: int = 0
    bytes_down: int = 0
    clipped: int = 0
    sent: int | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def ask(self, number: int, since: float) -> None:
        """It was asked for an update."""
        self.phase, self.round, self.since, self.note = "working", number, since, ""

    def answer(self, event: SiteAnswered) -> None:
        """Its update arrived."""
        arrived = event.time.timestamp()
        self.seconds = max(arrived - self.since, 0.0)
        self.last = event
        self.phase, self.round, self.since, self.note = "done", event.round, arrived, ""
        self.updates += 1
        self.update_bytes += event.bytes_up
        self.clear_bytes += event.clear_bytes
        self.bytes_down += event.bytes_down
        self.clipped += event.clipped
        for phase, seconds in event.seconds.items():
            self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds

    def fail(self, phase: str, event: SiteFailed) -> None:
        """It is not in a round."""
        self.phase, self.since, self.note = phase, event.time.timestamp(), event.sentence
        self.failures[phase] = self.failures.get(phase, 0) + 1

    def to_row(self) -> dict[str, Any]:
        """As the page gets it."""
        return {
            "phase": self.phase,
            "round": self.round,
            "since": self.since,
            "note": self.note,
            "seconds": self.seconds,
            "expected": _steps(self.last, self.seconds) if self.last else [],
            "up": self.enrolment_bytes + self.update_bytes + self.xray_bytes,
            "down": self.bytes_down,
            "left": {
                "enrolments": [self.enrolments, self.enrolment_bytes],
                "updates": [self.updates, self.update_bytes],
                "mean_xrays": [int(self.xray_bytes > 0), self.xray_bytes],
                "clear": self.clear_bytes,
            },
            "clipped": self.clipped,
            "phase_seconds": {name: round(sum_s, 3) for name, sum_s in self.phase_seconds.items()},
            "sent": self.sent,
        }

    def to_counts(self) -> dict[str, Any]:
        """What the page does not get."""
        return {
            "updates": self.updates,
            "failures": dict(self.failures),
        }


def _steps(event: SiteAnswered, total_s: float) -> list[tuple[str, float]]:
    """What the answer's time went into; what the site did not account for, it was on the line.

    That part is divided between the two directions by their bytes.
    """
    steps = [(WORDS[phase], event.seconds.get(phase, 0.0)) for phase in _STEPS]
    line_s = max(total_s - sum(seconds for _, seconds in steps), 0.0)
    up = event.bytes_up / max(event.bytes_up + event.bytes_down, 1)
    steps = [("receiving", (1 - up) * line_s), *steps, ("uploading", up * line_s)]
    return [(name, round(seconds, 3)) for name, seconds in steps]
