"""A run's figures for other programs: tables (CSV), and TensorBoard's event files."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ppfl.errors import RunError, SettingsError, write_error
from ppfl.federation import JournalReader
from ppfl.federation.journal import (
    AnyEvent,
    MetricsReleased,
    RoundClosed,
    SiteAnswered,
    StudyStarted,
)
from ppfl.files import replace_text
from ppfl.report.summary import (
    FIGURES,
    PHASES,
    Round,
    answers_inside,
    rounds_table,
    summarise_round,
)

CLASS_FIGURES = ("auroc", "sensitivity", "specificity", "images")
_NEW = ".unfinished-"
_EVENT_FILES = "events.out.tfevents.*"
_TOLD = {
    "seconds": "seconds at the median site; round: wall time of the round",
    "bytes": "bytes of one update and of what a site gets with the request, at the median site",
    "sites": "sites in the round's total",
    "site": "seconds of all phases, bytes of the update, parameters out of range",
    "federation": "on all sites' validation images, after the round",
    "class": "on all sites' validation images, after the round",
    "test": "on all sites' test images, after the last round",
    "personal": "on all sites' test images, each site's under its personal model",
}


class _Answer(NamedTuple):
    """One line of the sites' table; a long run has very many."""

    site: str
    bytes_up: int
    bytes_down: int
    clipped: int
    seconds: tuple[float, ...]


class Export:
    """What a journal says of its last run, in figures.

    Rounds that were done again, after a crash, are there once, as they ended. One of which the
    journal lacks an answer, because a crash tore its line, is left out.

    Args:
        journal: the run's; it may still grow.

    Raises:
        RunError: there is no journal, or a line of it is no event.
    """

    def __init__(self, journal: Path) -> None:
        if not journal.is_file():
            raise RunError(f"{journal}: no such journal", hint="name a run's folder")
        self._run = ""
        self._begin()
        reader = JournalReader(journal)
        while lines := reader.read():
            for line in lines:
                event = line.event()
                if event is not None:
                    self._note(event)

    @property
    def rounds(self) -> list[Round]:
        """The complete rounds."""
        metrics = {
            number: m for (number, split), (_, m) in self._metrics.items() if split == "validation"
        }
        return [replace(r, metrics=metrics.get(r.number, {})) for r in self._rounds.values()]

    def write_tables(self, folder: Path) -> list[Path]:
        """Write the tables of rounds, classes and sites; where they are.

        Raises:
            RunError: one cannot be written; on a full disk that is a DiskFullError.
        """
        seconds = [f"{phase}_s" for phase in (*PHASES, "ahead")]
        tables = {
            "metrics.csv": rounds_table(self.rounds),
            "classes.csv": _table(("round", "split", "class", *CLASS_FIGURES), self._class_rows()),
            "sites.csv": _table(
                ("round", "site", "bytes_up", "bytes_down", "clipped", *seconds), self._site_rows()
            ),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(f"{folder}: cannot be written", error) from None
        for name, text in tables.items():
            replace_text(folder / name, text)
        return [folder / name for name in tables]

    def write_event_files(self, folder: Path) -> Path:
        """Write TensorBoard's event files, in place of earlier ones there; the folder.

        Raises:
            SettingsError: the package tensorboard is not installed.
            RunError: a file cannot be written; on a full disk that is a DiskFullError.
        """
        try:
            from tensorboard.summary import Writer
        except ImportError:
            hint = "pip install '.[tensorboard]' in a clone of ppfl"
            raise SettingsError("the package tensorboard is not installed", hint=hint) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for unfinished in folder.glob(f"{_NEW}*"):  # of a process that was killed
                shutil.rmtree(unfinished)
            with TemporaryDirectory(dir=folder, prefix=_NEW) as new:
                writer = Writer(new)
                for tag, number, time, value in self._scalars():
                    told = _TOLD[tag.partition("/")[0]]
                    writer.add_scalar(tag, value, number, wall_time=time, description=told)
                try:
                    writer.flush()  # which raises what its thread met; close() does not
                finally:
                    writer.close()
                for earlier in folder.glob(_EVENT_FILES):  # it would show both
                    earlier.unlink()
                for whole in Path(new).glob(_EVENT_FILES):
                    whole.rename(folder / whole.name)
        except OSError as error:
            raise write_error(f"{error.filename or folder}: cannot be written", error) from None
        return folder

    def _begin(self) -> None:
        """Forget an earlier run."""
        self._answered: dict[str, SiteAnswered] = {}
        self._rounds: dict[int, Round] = {}
        self._closed: dict[int, float] = {}
        self._answers: dict[int, tuple[_Answer, ...]] = {}
        self._metrics: dict[tuple[int, str], tuple[float, dict[str, Any]]] = {}

    def _note(self, event: AnyEvent) -> None:
        match event:
            case StudyStarted():
                if event.run != self._run:
                    self._run = event.run
                    self._begin()
                for number in [n for n in self._rounds if n > event.resumed_after]:
                    del self._rounds[number], self._closed[number], self._answers[number]
                for number, split in [key for key in self._metrics if key[0] > event.resumed_after]:
                    del self._metrics[number, split]
            case SiteAnswered():
                self._answered[event.site] = event
            case RoundClosed():
                inside = answers_inside(event, self._answered)
                if len(inside) < len(event.sites):
                    return
                self._rounds[event.round] = summarise_round(event, inside, {})
                self._closed[event.round] = event.time.timestamp()
                self._answers[event.round] = tuple(map(_shorten, inside.values()))
            case MetricsReleased():
                time = event.time.timestamp()
                self._metrics[event.round, event.split] = time, event.metrics

    def _class_rows(self) -> Iterator[tuple[Any, ...]]:
        for (number, split), (_, metrics) in self._metrics.items():
            for label, figures in metrics.get("classes", {}).items():
                yield number, split, label, *(figures.get(name) for name in CLASS_FIGURES)

    def _site_rows(self) -> Iterator[tuple[Any, ...]]:
        for number, answers in self._answers.items():
            for site, bytes_up, bytes_down, clipped, seconds in answers:
                yield number, site, bytes_up, bytes_down, clipped, *seconds

    def _scalars(self) -> Iterator[tuple[str, int, float, float]]:
        """Tag, round, seconds since 1970 and value of all that TensorBoard shows."""
        for (number, split), (time, metrics) in self._metrics.items():
            before = "" if split == "validation" else f"{split}/"
            for name in FIGURES:
                if (value := metrics.get(name)) is not None:
                    yield f"{before or 'federation/'}{name}", number, time, value
            for label, figures in metrics.get("classes", {}).items():
                for name in CLASS_FIGURES:
                    if (value := figures.get(name)) is not None:
                        yield f"{before}class/{label}/{name}", number, time, value
        for number, r in self._rounds.items():
            time = self._closed[number]
            for phase, seconds in r.seconds.items():
                yield f"seconds/{phase}", number, time, seconds
            yield "seconds/ahead", number, time, r.ahead_s
            yield "seconds/round", number, time, r.total_s
            yield "bytes/up", number, time, r.bytes_up
            yield "bytes/down", number, time, r.bytes_down
            yield "sites/in_total", number, time, len(r.sites)
            for answer in self._answers[number]:
                # the last of them is work beside the others
                yield f"site/{answer.site}/seconds", number, time, sum(answer.seconds[:-1])
                yield f"site/{answer.site}/bytes_up", number, time, answer.bytes_up
                yield f"site/{answer.site}/clipped", number, time, answer.clipped


def _shorten(event: SiteAnswered) -> _Answer:
    seconds = tuple(event.seconds.get(phase, 0.0) for phase in (*PHASES, "ahead"))
    return _Answer(event.site, event.bytes_up, event.bytes_down, event.clipped, seconds)


def _table(heads: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return text.getvalue()
