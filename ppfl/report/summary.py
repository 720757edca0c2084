"""A run in figures, from its journal alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ppfl.federation.journal import (
    Alarm,
    AnyEvent,
    MetricsReleased,
    RoundClosed,
    SiteAnswered,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)

PHASES = ("open", "evaluate", "train", "seal", "add")


@dataclass(frozen=True, slots=True)
class Round:
    """One complete round; seconds and bytes are medians over its sites, ``total_s`` wall time."""

    number: int
    sites: tuple[str, ...]
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
    total_s: float
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run: how it began, its rounds, how it ended."""

    started: StudyStarted | None
    rounds: tuple[Round, ...]
    test: dict[str, Any]
    closed: StudyClosed | None
    failed: StudyFailed | None
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """What ``ppfl simulate --json`` prints, without the places of files."""
        begun = self.started
        return {
            "study": begun.study if begun else "",
            "custody": begun.custody if begun else "",
            "key_bits": begun.key_bits if begun else 0,
            "values": begun.values if begun else 0,
            "sites": list(begun.sites) if begun else [],
            "rounds": [
                {
                    "round": r.number,
                    "sites": list(r.sites),
                    "accuracy": r.metrics.get("accuracy"),
                    "macro_auroc": r.metrics.get("macro_auroc"),
                    "bytes_up": r.bytes_up,
                    "bytes_down": r.bytes_down,
                    "seconds": r.seconds | {"total": r.total_s},
                }
                for r in self.rounds
            ],
            "test": self.test,
            "model_sha256": self.closed.model_sha256 if self.closed else "",
        }

    def to_csv(self) -> str:
        """One line a round: metrics, bytes and seconds."""
        text = io.StringIO()
        names = ["accuracy", "macro_auroc", "loss", "ece"]
        seconds = [f"{phase}_s" for phase in PHASES]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["round", "sites", *names, "bytes_up", "bytes_down", *seconds, "total_s"])
        for r in self.rounds:
            figures = [r.metrics.get(name, "") for name in names]
            times = [r.seconds.get(phase, "") for phase in PHASES]
            row = [r.number, len(r.sites), *figures, r.bytes_up, r.bytes_down, *times, r.total_s]
            writer.writerow(row)
        return text.getvalue()


def summarise(events: Sequence[AnyEvent]) -> Summary:
    """A run's summary; a round that was done twice, after a crash, counts as it ended."""
    started = [event for event in events if isinstance(event, StudyStarted)]
    answers: dict[int, dict[str, SiteAnswered]] = {}
    closed_rounds: dict[int, RoundClosed] = {}
    metrics: dict[tuple[int, str], dict[str, Any]] = {}
    notes = []
    for event in events:
        if isinstance(event, SiteAnswered):
            answers.setdefault(event.round, {})[event.site] = event
        elif isinstance(event, RoundClosed):
            closed_rounds[event.round] = event
        elif isinstance(event, MetricsReleased):
            metrics[event.round, event.split] = event.metrics
        elif isinstance(event, SiteFailed):
            notes.append(f"round {event.round}: {event.site} is not in it: {event.sentence}")
        elif isinstance(event, Alarm):
            notes.append(f"round {event.round}: {event.sentence}")
    rounds = []
    for number, event in sorted(closed_rounds.items()):
        inside = [answers[number][site] for site in event.sites]
        rounds.append(
            Round(
                number=number,
                sites=event.sites,
                bytes_up=int(median(a.bytes_up for a in inside)),
                bytes_down=int(median(a.bytes_down for a in inside)),
                seconds={
                    p: round(median(a.seconds.get(p, 0.0) for a in inside), 3) for p in PHASES
                },
                total_s=event.seconds,
                metrics=metrics.get((number, "validation"), {}),
            )
        )
    last = events[-1] if events else None
    return Summary(
        started=started[-1] if started else None,
        rounds=tuple(rounds),
        test=next((m for (_, split), m in reversed(metrics.items()) if split == "test"), {}),
        closed=next((e for e in reversed(events) if isinstance(e, StudyClosed)), None),
        failed=last if isinstance(last, StudyFailed) else None,
        notes=tuple(notes),
    )
