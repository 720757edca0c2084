"""A run in figures, from its journal alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ppfl.federation.journal import (
    Alarm,
    AnyEvent,
    ImagesReleased,
    MeanXRaysReleased,
    MetricsReleased,
    RoundClosed,
    SiteAnswered,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)

PHASES = ("open", "evaluate", "train", "seal", "add")
FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc", "loss", "brier", "ece", "images")


@dataclass(frozen=True, slots=True)
class Round:
    """One complete round; seconds and bytes are medians over its sites, ``total_s`` wall time.

    ``ahead_s`` is work on sealing that was done beside evaluation and training.
    """

    number: int
    sites: tuple[str, ...]
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
    ahead_s: float
    total_s: float
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run: how it began, its rounds, how it ended.

    ``test`` and ``validation`` are the final model's metrics, ``counts`` by split the joined counts
    behind them (``ppfl.learning.released_counts``); all are empty where none were released.
    ``class_images`` maps a class to all sites' training images, ``mean_xrays`` to the federation's
    mean X-ray of it, a PNG file in base64. ``earlier_runs`` of the same journal are left out.
    """

    started: StudyStarted | None
    rounds: tuple[Round, ...]
    test: dict[str, Any]
    closed: StudyClosed | None
    failed: StudyFailed | None
    notes: tuple[str, ...] = field(default=())
    mean_xrays: dict[str, str] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    class_images: dict[str, int] = field(default_factory=dict)
    earlier_runs: int = 0

    @property
    def hidden_share(self) -> float:
        """Share of opening and sealing that ran beside training, in [0, 1]."""
        ahead = sum(r.ahead_s for r in self.rounds)
        seen = sum(r.seconds["open"] + r.seconds["seal"] for r in self.rounds)
        return ahead / (ahead + seen) if ahead else 0.0

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
                    "seconds": r.seconds | {"ahead": r.ahead_s, "total": r.total_s},
                }
                for r in self.rounds
            ],
            "hidden_share": self.hidden_share,
            "test": self.test,
            "model_sha256": self.closed.model_sha256 if self.closed else "",
        }

    def to_csv(self) -> str:
        """One line a round: see ``rounds_table``."""
        return rounds_table(self.rounds)


def rounds_table(rounds: Iterable[Round]) -> str:
    """One line a round, as CSV: metrics, bytes and seconds."""
    text = io.StringIO()
    seconds = [f"{phase}_s" for phase in (*PHASES, "ahead", "total")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["round", "sites", *FIGURES, "bytes_up", "bytes_down", *seconds])
    for r in rounds:
        figures = [r.metrics.get(name, "") for name in FIGURES]
        times = [*(r.seconds[phase] for phase in PHASES), r.ahead_s, r.total_s]
        row = [r.number, len(r.sites), *figures, r.bytes_up, r.bytes_down, *times]
        writer.writerow(row)
    return text.getvalue()


def summarise(events: Sequence[AnyEvent]) -> Summary:
    """The summary of a journal's last run; a round that was done twice counts as it ended."""
    events, earlier = _last_run(events)
    started = [event for event in events if isinstance(event, StudyStarted)]
    answers: dict[int, dict[str, SiteAnswered]] = {}
    closed_rounds: dict[int, RoundClosed] = {}
    metrics: dict[tuple[int, str], dict[str, Any]] = {}
    mean_xrays: dict[str, str] = {}
    class_images: dict[str, int] = {}
    counts: dict[str, dict[str, Any]] = {}
    notes = []
    for event in events:
        if isinstance(event, StudyStarted):
            for number in [n for n in closed_rounds if n > event.resumed_after]:
                del closed_rounds[number]  # it is done again
        elif isinstance(event, SiteAnswered):
            answers.setdefault(event.round, {})[event.site] = event
        elif isinstance(event, RoundClosed):
            closed_rounds[event.round] = event
        elif isinstance(event, MetricsReleased):
            metrics[event.round, event.split] = event.metrics
            if event.counts:
                counts[event.split] = event.counts
        elif isinstance(event, ImagesReleased):
            class_images = event.images
        elif isinstance(event, MeanXRaysReleased):
            mean_xrays = event.pictures
        elif isinstance(event, SiteFailed):
            notes.append(f"round {event.round}: {event.site} is not in it: {event.sentence}")
        elif isinstance(event, Alarm):
            notes.append(f"round {event.round}: {event.sentence}")
    rounds = [
        summarise_round(event, answers[number], metrics.get((number, "validation"), {}))
        for number, event in sorted(closed_rounds.items())
    ]
    last = events[-1] if events else None
    return Summary(
        started=started[-1] if started else None,
        rounds=tuple(rounds),
        test=next((m for (_, split), m in reversed(metrics.items()) if split == "test"), {}),
        closed=next((e for e in reversed(events) if isinstance(e, StudyClosed)), None),
        failed=last if isinstance(last, StudyFailed) else None,
        notes=tuple(notes),
        mean_xrays=mean_xrays,
        validation=metrics.get((max(closed_rounds, default=0), "validation"), {}),
        counts=counts,
        class_images=class_images,
        earlier_runs=earlier,
    )


def _last_run(events: Sequence[AnyEvent]) -> tuple[Sequence[AnyEvent], int]:
    """The events of the last run in a journal, and how many runs were before it.

    A run that goes on begins again under the same name.
    """
    begun, runs = 0, list[str]()
    for place, event in enumerate(events):
        if isinstance(event, StudyStarted) and event.run not in runs[-1:]:
            runs.append(event.run)
            begun = place
    return events[begun:] if len(runs) > 1 else events, max(len(runs) - 1, 0)


def summarise_round(
    closed: RoundClosed, answers: Mapping[str, SiteAnswered], metrics: dict[str, Any]
) -> Round:
    """A complete round, from its sites' answers by name and the metrics after it."""
    inside = [answers[site] for site in closed.sites]
    return Round(
        number=closed.round,
        sites=closed.sites,
        bytes_up=int(median(answer.bytes_up for answer in inside)),
        bytes_down=int(median(answer.bytes_down for answer in inside)),
        seconds={phase: _median_s(inside, phase) for phase in PHASES},
        ahead_s=_median_s(inside, "ahead"),
        total_s=closed.seconds,
        metrics=metrics,
    )


def _median_s(answers: Sequence[SiteAnswered], phase: str) -> float:
    return round(median(answer.seconds.get(phase, 0.0) for answer in answers), 3)
