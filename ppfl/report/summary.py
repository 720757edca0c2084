"""A run in figures, from its journal alone."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ppfl.errors import SettingsError
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
from ppfl.settings import Study

PHASES = ("open", "evaluate", "train", "seal", "add")
FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc", "loss", "brier", "ece", "images")
_MOST_ALARMS = 20  # told one by one


@dataclass(frozen=True, slots=True)
class Round:
    """One complete round; seconds and bytes are medians over its sites, ``total_s`` wall time.

    ``ahead_s`` is work on sealing that was done beside evaluation and training. ``metrics`` are the
    federation's after the round: at least ``FIGURES``, and by class the AUROC.
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

    ``test`` and ``validation`` are the final model's metrics, ``personal`` those of the sites'
    personal models on the test images, ``counts`` by split the joined counts behind them
    (``ppfl.learning.released_counts``); all are empty where none were released.
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
    personal: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    class_images: dict[str, int] = field(default_factory=dict)
    earlier_runs: int = 0

    @property
    def hidden_share(self) -> float:
        """Share of opening and sealing that ran beside training, in [0, 1]."""
        ahead = sum(r.ahead_s for r in self.rounds)
        seen = sum(r.seconds["open"] + r.seconds["seal"] for r in self.rounds)
        return ahead / (ahead + seen) if ahead else 0.0

    @property
    def encryption_s(self) -> float:
        """Seconds of opening, sealing and adding at the median site, in the median round."""
        phases = ("open", "seal", "add")
        return median([sum(r.seconds[phase] for phase in phases) for r in self.rounds] or [0.0])

    @property
    def round_s(self) -> float:
        """Seconds on the clock of the median round."""
        return median([r.total_s for r in self.rounds] or [0.0])

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


def summarise(events: Iterable[AnyEvent]) -> Summary:
    """The summary of a journal's last run; a round that was done twice counts as it ended.

    Events are looked at one by one, and of a round is kept what ``Round`` has of it, so that a
    journal of any length can be summarised while it is read.
    """
    run = _Run()
    for event in events:
        if isinstance(event, StudyStarted) and run.started and event.run != run.started.run:
            same = event.study_fingerprint == run.started.study_fingerprint
            made = run.mean_xrays if same else {}  # once in a study, in whichever run
            run = _Run(earlier=run.earlier + 1, mean_xrays=made)
        run.note(event)
    return run.summary()


def study_of_run(folder: Path, summary: Summary) -> tuple[Study | None, str]:
    """The study in a run's folder, if it is the run's; else None, and why it is not."""
    try:
        study = Study.read(folder / "study.toml")
    except SettingsError:
        return None, "study.toml is missing or cannot be read"
    if summary.started and study.fingerprint() != summary.started.study_fingerprint:
        return None, "study.toml is not the study that the journal names"
    return study, ""


def answers_inside(
    closed: RoundClosed, answered: Mapping[str, SiteAnswered]
) -> dict[str, SiteAnswered]:
    """The answers in a round's total by site, of the last that each site gave.

    It lacks those of which a crash tore the line.
    """
    found = (answered.get(site) for site in closed.sites)
    return {answer.site: answer for answer in found if answer and answer.round == closed.round}


def summarise_round(
    closed: RoundClosed, answers: Mapping[str, SiteAnswered], metrics: dict[str, Any]
) -> Round:
    """A complete round, from its sites' answers by name and the metrics after it."""
    inside = [answers[site] for site in closed.sites]
    return Round(
        number=closed.round,
        sites=tuple(map(sys.intern, closed.sites)),  # the same names in very many rounds
        bytes_up=int(median(answer.bytes_up for answer in inside)),
        bytes_down=int(median(answer.bytes_down for answer in inside)),
        seconds={phase: _median_s(inside, phase) for phase in PHASES},
        ahead_s=_median_s(inside, "ahead"),
        total_s=closed.seconds,
        metrics=metrics,
    )


@dataclass(slots=True)
class _Failure:
    """How often a site was not in the total for one reason."""

    times: int
    first: int
    last: int


@dataclass(slots=True)
class _Run:
    """A run as far as its events were looked at.

    ``lacking`` are the rounds that are left out, because the journal lacks an answer; ``curves`` is
    what is shown of each round, ``metrics`` and ``counts`` are by round and split.
    """

    earlier: int = 0
    started: StudyStarted | None = None
    answered: dict[str, SiteAnswered] = field(default_factory=dict)
    rounds: dict[int, Round] = field(default_factory=dict)
    lacking: dict[int, list[str]] = field(default_factory=dict)
    curves: dict[int, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    counts: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    failures: dict[tuple[str, str], _Failure] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    more_alarms: int = 0
    mean_xrays: dict[str, str] = field(default_factory=dict)
    class_images: dict[str, int] = field(default_factory=dict)
    closed: StudyClosed | None = None
    last: AnyEvent | None = None

    def note(self, event: AnyEvent) -> None:
        self.last = event
        match event:
            case StudyStarted():
                self.started = event
                self._undo(event.resumed_after)
            case SiteAnswered():
                self.answered[event.site] = event
            case RoundClosed():
                self._close(event)
            case MetricsReleased():
                self._release(event)
            case ImagesReleased():
                self.class_images = event.images
            case MeanXRaysReleased():
                self.mean_xrays = event.pictures
            case SiteFailed():
                new = _Failure(0, event.round, event.round)
                failure = self.failures.setdefault((event.site, event.sentence), new)
                failure.times, failure.last = failure.times + 1, event.round
            case Alarm() if len(self.alarms) < _MOST_ALARMS:
                self.alarms.append(f"round {event.round}: {event.sentence}")
            case Alarm():
                self.more_alarms += 1
            case StudyClosed():
                self.closed = event

    def summary(self) -> Summary:
        last_round = max((*self.rounds, *self.lacking), default=0)
        return Summary(
            started=self.started,
            rounds=tuple(
                replace(self.rounds[number], metrics=self.curves.get(number, {}))
                for number in sorted(self.rounds)
            ),
            test=self._of_split("test"),
            personal=self._of_split("personal"),
            closed=self.closed,
            failed=self.last if isinstance(self.last, StudyFailed) else None,
            notes=tuple(self._notes()),
            mean_xrays=self.mean_xrays,
            validation=self.metrics.get((last_round, "validation"), {}),
            counts={split: counts for (_, split), counts in self.counts.items()},
            class_images=self.class_images,
            earlier_runs=self.earlier,
        )

    def _undo(self, after: int) -> None:
        """Forget the rounds that are done again, and what was released of them."""
        self.rounds = {number: r for number, r in self.rounds.items() if number <= after}
        self.lacking = {number: names for number, names in self.lacking.items() if number <= after}
        self.curves = {number: m for number, m in self.curves.items() if number <= after}
        self.metrics = {key: metrics for key, metrics in self.metrics.items() if key[0] <= after}
        self.counts = {key: counts for key, counts in self.counts.items() if key[0] <= after}

    def _close(self, event: RoundClosed) -> None:
        inside = answers_inside(event, self.answered)
        lacking = [site for site in event.sites if site not in inside]
        if lacking:
            self.lacking[event.round] = lacking
        else:
            self.rounds[event.round] = summarise_round(event, inside, {})
        self.answered = {}

    def _release(self, event: MetricsReleased) -> None:
        self.metrics[event.round, event.split] = event.metrics
        if event.counts:
            self.counts[event.round, event.split] = event.counts
        if event.split == "validation":
            self.curves[event.round] = _shorten(event.metrics)
            # a run goes on after its last round or the one before, where the last total is spoiled
            self.metrics.pop((event.round - 2, event.split), None)

    def _of_split(self, wanted: str) -> dict[str, Any]:
        """The metrics of a split that is measured once, at the end."""
        found = (
            metrics for (_, split), metrics in reversed(self.metrics.items()) if split == wanted
        )
        return next(found, {})

    def _notes(self) -> Iterator[str]:
        for number, names in self.lacking.items():
            lost = ", ".join(names)
            yield f"round {number} is left out: the journal lacks the answer of {lost}"
        for (site, sentence), failure in self.failures.items():
            if failure.times == 1:
                yield f"round {failure.first}: {site} is not in it: {sentence}"
            else:
                yield (
                    f"{site} was not in the total {failure.times} times, in rounds "
                    f"{failure.first} to {failure.last}: {sentence}"
                )
        yield from self.alarms
        if self.more_alarms:
            yield f"the journal holds {self.more_alarms} more alarms"


def _shorten(metrics: dict[str, Any]) -> dict[str, Any]:
    """What tables and curves show of a round; a run may have thousands."""
    classes = metrics.get("classes", {})
    kept = {name: metrics[name] for name in FIGURES if name in metrics}
    return kept | {"classes": {name: {"auroc": one.get("auroc")} for name, one in classes.items()}}


def _median_s(answers: Sequence[SiteAnswered], phase: str) -> float:
    return round(median(answer.seconds.get(phase, 0.0) for answer in answers), 3)
