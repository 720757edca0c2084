"""Journals of made-up studies, written as a coordinator would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ppfl.federation import Journal
from ppfl.federation.journal import (
    Event,
    MetricsReleased,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyClosed,
    StudyStarted,
)

CLASSES = ("COVID", "Normal", "Effusion")
SITES = ("harbour", "north", "valley")
_SECONDS = {"open": 1.5, "evaluate": 0.5, "train": 16.0, "seal": 0.3, "add": 0.05}


def started(*, sites: Sequence[str] = SITES, rounds: int = 4, **changes: Any) -> StudyStarted:
    """The first event; a year of silence is within its deadline unless it is changed."""
    values: dict[str, Any] = {
        "run": "a1",
        "study": "thorax",
        "study_fingerprint": "06" * 32,
        "classes": CLASSES,
        "custody": "shared",
        "suite": "packed",
        "protection": "Paillier, 3072 bits",
        "key_fingerprint": "8fa4" * 16,
        "key_bits": 3072,
        "sites": tuple(sites),
        "minimum_sites": 2,
        "deadline_s": 3.2e7,
        "rounds": rounds,
        "values": 1000,
        "update_bytes": 7_200_000,
        "round_bytes_down": 7_200_848,
        "study_bytes_up": rounds * 7_200_000,
        "versions": {"ppfl": "0.1.0"},
        "resumed_after": 0,
    }
    return StudyStarted(**(values | changes))


def answered(number: int, site: str, **changes: Any) -> SiteAnswered:
    values: dict[str, Any] = {
        "round": number,
        "site": site,
        "bytes_up": 7_200_000,
        "bytes_down": 7_200_848,
        "clear_bytes": 1500,
        "seconds": _SECONDS,
        "clipped": 0,
    }
    return SiteAnswered(**(values | changes))


def closed(number: int, sites: Sequence[str] = SITES) -> RoundClosed:
    return RoundClosed(round=number, sites=tuple(sites), seconds=20.0, total_sha256="ee" * 32)


def released(
    number: int,
    sites: Sequence[str] = SITES,
    *,
    split: str = "validation",
    labels: Sequence[str] = CLASSES,
) -> MetricsReleased:
    """Metrics that get better with each round."""
    figure = 1 - 0.6 * 0.7**number
    classes = {
        name: {"auroc": figure, "images": 100, "sensitivity": figure, "specificity": figure}
        for name in labels
    }
    metrics = {"accuracy": figure, "balanced_accuracy": figure, "macro_auroc": figure}
    metrics |= dict.fromkeys(("ece", "brier", "loss"), 1 - figure)
    return MetricsReleased(
        round=number,
        split=split,  # type: ignore[arg-type]
        sites=tuple(sites),
        metrics=metrics | {"classes": classes, "images": 300, "confusion": []},
    )


def study(*, sites: Sequence[str] = SITES, rounds: int = 4, **changes: Any) -> Iterator[Event]:
    """All events of a study, from the first to the last, half a second from one to the next."""
    for place, event in enumerate(_study(sites, rounds, changes)):
        yield event.model_copy(update={"time": _BEGAN + timedelta(seconds=place / 2)})


_BEGAN = datetime.now(UTC) - timedelta(minutes=5)


def _study(sites: Sequence[str], rounds: int, changes: dict[str, Any]) -> Iterator[Event]:
    labels = changes.get("classes", CLASSES)
    yield started(sites=sites, rounds=rounds, **changes)
    for site in sites:
        yield SiteEnrolled(site=site, bytes_up=848, bytes_down=9_000_000)
    for number in range(1, rounds + 1):
        yield RoundStarted(round=number, sites=tuple(sites))
        for site in sites:
            yield answered(number, site)
        yield closed(number, sites)
        yield released(number - 1, sites, labels=labels)
    yield released(rounds, sites, labels=labels)
    yield released(rounds, sites, split="test", labels=labels)
    yield StudyClosed(rounds=rounds, sites=tuple(sites), model_sha256="ab" * 32, seconds=80.0)


def write(folder: Path, *events: Event) -> Path:
    """Append events to the journal of a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    for event in events:
        journal.write(event)
    return folder


def write_fast(folder: Path, events: Iterator[Event]) -> Path:
    """A long journal at once: lines as the journal writes them, but for the chain of digests."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(event.model_dump_json() + "\n" for event in events)
    return folder
