"""What a run is doing, shown while it goes on: made from its journal and its sites' phase files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ppfl.federation import JournalReader
from ppfl.federation.journal import (
    AnyEvent,
    MeanXRaysReleased,
    MetricsReleased,
    RoundClosed,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyStarted,
)
from ppfl.settings import Study
from sites.phase import read_phase

_EVERY_S = 0.5


class RunProgress:
    """Prints a line for each event; on a terminal, bars for the rounds and each site below them.

    A context manager; between entry and exit a thread of its own looks at the run's folder.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._study = Study.read(folder / "study.toml")
        self._journal = JournalReader(folder / "journal.jsonl")
        self._journal.skip()  # runs before a --resume
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TextColumn("{task.fields[state]:<24}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=2,
            disable=not console.is_terminal,
        )
        self._rounds = self._bars.add_task("rounds", total=self._study.training.rounds, state="")
        self._sites: dict[str, TaskID] = {
            name: self._bars.add_task(name, total=None, state="waiting")
            for name in self._study.federation.sites
        }
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._bars.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        self._bars.stop()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        for line in self._journal.read():
            event = line.event()
            if event is not None:
                self._tell(event)
        for name, task in self._sites.items():
            phase = read_phase(self._folder / "sites" / name / "work")
            if phase:
                state = f"round {phase['round']}: {phase['phase']}"
                total, done = phase["of"] or None, phase["done"]
                if phase["phase"] == "done":
                    total = done = 1
                self._bars.update(task, total=total, completed=done, state=state)

    def _tell(self, event: AnyEvent) -> None:
        if line := describe(event):
            self._console.print(line, highlight=False, soft_wrap=True)
        if isinstance(event, RoundClosed):
            self._bars.update(self._rounds, completed=event.round)


def describe(event: AnyEvent) -> str:
    """An event as one line, empty for those that a user need not see as they happen."""
    match event:
        case StudyStarted():
            up, down = event.update_bytes / 1e6, event.round_bytes_down / 1e6
            all_up, all_down = event.study_bytes_up / 1e6, event.study_bytes_down / 1e6
            kept = ""
            if event.kept_bytes:
                kept = f"\nthe coordinator keeps ciphertexts: {event.kept_bytes / 1e6:.1f} MB"
            return (
                f"study {event.study}: {len(event.sites)} sites, {event.rounds} rounds; an update "
                f"is {event.values:,} integers; protection: {event.protection}\n"
                f"each site sends {up:.1f} MB and receives {down:.1f} MB a round, "
                f"{all_up:.1f} MB and {all_down:.1f} MB in all"
                f"{kept}"
            )
        case SiteEnrolled():
            return f"  {event.site} enrolled"
        case SiteAnswered():
            spent = ", ".join(f"{name} {s:.1f} s" for name, s in event.seconds.items())
            size = event.bytes_up / 1e6
            return f"  round {event.round}: {event.site}: {spent}; {size:.1f} MB sealed"
        case SiteAskedAgain():
            return f"  round {event.round}: {event.site} was lost, is back, and is asked again"
        case SiteFailed():
            return f"  round {event.round}: {event.site} failed: {event.sentence}"
        case RoundClosed():
            return f"round {event.round} closed: {len(event.sites)} sites, {event.seconds:.1f} s"
        case MeanXRaysReleased():
            classes, size = ", ".join(event.pictures) or "no class", event.bytes_up / 1e3
            return f"  mean X-rays of {classes} opened; {size:.0f} kB sealed at each site"
        case MetricsReleased(split="validation"):
            accuracy, images = event.metrics["accuracy"], event.metrics["images"]
            return f"  after round {event.round}: accuracy {accuracy:.3f} on {images} images"
        case _:
            return ""
