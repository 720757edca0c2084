"""What a run is doing, shown while it goes on: made from its journal and its sites' phase files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ppfl.federation.journal import RoundClosed
from ppfl.settings import Study
from sites.event_lines import JournalLines
from sites.phase import read_phase

_EVERY_S = 0.5


class RunProgress:
    """Prints a line for each event; on a terminal, bars for the rounds and each site below them.

    A context manager; between entry and exit a thread of its own looks at the run's folder.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._study = Study.read(folder / "study.toml")
        self._lines = JournalLines(folder / "journal.jsonl", console)
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
        for event in self._lines.look():
            if isinstance(event, RoundClosed):
                self._bars.update(self._rounds, completed=event.round)
        for name, task in self._sites.items():
            phase = read_phase(self._folder / "sites" / name / "work")
            if phase:
                state = f"round {phase['round']}: {phase['phase']}"
                total, done = phase["of"] or None, phase["done"]
                if phase["phase"] == "done":
                    total = done = 1
                self._bars.update(task, total=total, completed=done, state=state)
