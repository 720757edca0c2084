"""What a run's journal says of the present, folded event by event, handed out as increments."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from coordinator.dashboard.alarms import Alarms
from coordinator.dashboard.changes import Changes
from coordinator.dashboard.sites import SiteState
from ppfl.federation.journal import (
    Alarm,
    AnyEvent,
    MeanXRaysReleased,
    MetricsReleased,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.report.summary import summarise_round
from ppfl.uploads import Sending

_GRACE_S = 180.0  # beyond a round's deadline, for what is lost and comes back
_ROUNDS = 5  # the last ones, by which the next are estimated
_MOST_ROWS = 1000  # of a section by round; a curve of more looks no different
_LATE = "deadline"  # the code of a failure; every other one is a refusal, or Flower's
_UNSHOWN = {"event", "version", "previous", "signature", "journal_key", "site_keys"}

STATES = ("not begun", "running", "silent", "stopped", "closed")
CURVES = ("accuracy", "balanced_accuracy", "macro_auroc", "loss", "brier", "ece", "images")
CLASS_CURVES = ("auroc", "sensitivity", "specificity", "images")


class RunState:
    """One run's present state; rows of it go to the pages as JSON.

    Sections: ``study`` (what was agreed), ``now`` (how far it is), ``sites``, ``rounds``,
    ``validation`` and ``test`` (metrics by round), ``alarms``. ``restarts`` counts what makes
    increments meaningless: another run, or one that went back to its last complete round.
    """

    def __init__(self) -> None:
        self.started: StudyStarted | None = None
        self.restarts = 0
        self.earlier_runs = 0
        self.state = "not begun"
        self.last = 0.0
        self._begin()

    def _begin(self) -> None:
        """Forget an earlier run."""
        self.changes = Changes()
        self.alarms = Alarms(self.changes)
        self._sites: dict[str, SiteState] = {}
        self._rounds: dict[str, str] = {}  # rows as JSON: they change no more, and may be many
        self._metrics: dict[str, dict[str, str]] = {"validation": {}, "test": {}}
        self._accuracy: float | None = None
        self._answers: dict[str, SiteAnswered] = {}
        self._asked: tuple[str, ...] = ()
        self._failed: set[str] = set()
        self._lately: deque[float] = deque(maxlen=_ROUNDS)
        self._closings, self._closing_s = 0, 0.0
        self._round = self._complete = 0
        self._since = self._begun = 0.0
        self._closed: StudyClosed | None = None
        self._failure = ""

    def note(self, event: AnyEvent) -> None:
        """Take in the journal's next event."""
        self.last = max(self.last, event.time.timestamp())
        match event:
            case SiteAnswered():
                self._note_answer(event)
            case StudyStarted():
                self._note_start(event)
            case SiteEnrolled():
                self._note_enrolment(event)
            case RoundStarted():
                self._note_round(event)
            case SiteAskedAgain():
                self._note_return(event)
            case SiteFailed():
                self._note_failure(event)
            case RoundClosed():
                self._note_close(event)
            case MetricsReleased():
                self._note_metrics(event)
            case MeanXRaysReleased():
                for name in event.sites:
                    self._site(name).xray_bytes += event.bytes_up
            case Alarm():
                self._raise(event, event.code, event.sentence, site=event.site)
            case StudyClosed():
                self._closed, self.state = event, "closed"
                self.alarms.settle("quorum", "site-lost", "site-late", "site-refused")
            case StudyFailed():
                self._note_end(event)
            case _:  # a site's own events, which are in no coordinator's journal
                return
        self.changes.note("now")

    def tick(self, now: float) -> None:
        """Notice that a run has gone silent: something would have been written by now."""
        if self.state in ("running", "silent") and self.started is not None:
            silent = now - self.last > self.started.deadline_s + _GRACE_S
            state = "silent" if silent else "running"
            if state != self.state:
                self.state = state
                self.changes.note("now")

    def note_uploads(self, sending: Mapping[str, Sending]) -> None:
        """Take in what comes in of the sites' answers just now."""
        for name, site in self._sites.items():
            sent = sending[name].bytes if name in sending else None
            if sent != site.sent:
                self._site(name).sent = sent

    def to_json(self, revision: int) -> str:
        """All that changed after a revision, as one JSON object; all there is, after 0."""
        sections: dict[str, list[str]] = {}
        single = []
        for section, row in self.changes.since(revision):
            text = self._row(section, row)
            if row:
                sections.setdefault(section, []).append(f"{json.dumps(row)}:{text}")
            else:
                single.append(f'"{section}":{text}')
        many = [f'"{section}":{{{",".join(rows)}}}' for section, rows in sections.items()]
        return "{" + ",".join(single + many) + "}"

    def to_overview(self) -> dict[str, Any]:
        """What the list of studies shows of it."""
        begun = self.started
        return {
            "study": begun.study if begun else "",
            "state": self.state,
            "round": self._round,
            "complete": self._complete,
            "rounds": begun.rounds if begun else 0,
            "sites": len(begun.sites) if begun else 0,
            "accuracy": self._accuracy,
            "alarms": self.alarms.active,
            "last": self.last,
        }

    def to_figures(self) -> dict[str, Any]:
        """What is so at present, for :mod:`coordinator.dashboard.metrics`.

        ``study`` and ``now`` are the rows of the pages, ``sites`` has a row each and its counts;
        ``rounds`` is how often one closed and the seconds together, ``alarms`` how many of a code
        are active and were raised, ``metrics`` by split the last model's round and figures.
        """
        last = {split: max(rows, key=int) for split, rows in self._metrics.items() if rows}
        return {
            "study": self._study_row(),
            "now": self._now_row(),
            "sites": {name: site.to_row() | site.to_counts() for name, site in self._sites.items()},
            "rounds": (self._closings, self._closing_s),
            "alarms": self.alarms.to_counts(),
            "metrics": {
                split: (int(row), json.loads(self._metrics[split][row]))
                for split, row in last.items()
            },
        }

    # One kind of event each

    def _note_start(self, event: StudyStarted) -> None:
        before = self.started
        if before is not None:
            self.restarts += 1
        if before is None or before.run != event.run:
            self.earlier_runs += before is not None
            sums = {name: state.xray_bytes for name, state in self._sites.items()}
            self._begin()
            if before and before.study_fingerprint == event.study_fingerprint:
                for name, xray_bytes in sums.items():  # once in a study, in whichever run
                    self._site(name).xray_bytes = xray_bytes
        elif event.resumed_after < self._round:
            for number in range(event.resumed_after + 1, self._round + 1):
                self._rounds.pop(str(number), None)
                self.changes.forget("rounds", str(number))
        self.started, self.state, self._failure = event, "running", ""
        self._begun = self._begun or event.time.timestamp()
        self._round = self._complete = event.resumed_after
        self._since = event.time.timestamp()
        self._asked, self._failed = (), set()
        for name in event.sites:
            site = self._site(name)
            site.phase, site.note = "expected", ""
        self.alarms.settle("ended", "quorum")
        self.changes.note("study")

    def _note_enrolment(self, event: SiteEnrolled) -> None:
        site = self._site(event.site)
        site.phase, site.since, site.note = "enrolled", event.time.timestamp(), ""
        site.enrolments += 1
        site.enrolment_bytes += event.bytes_up
        site.bytes_down += event.bytes_down

    def _note_round(self, event: RoundStarted) -> None:
        self._round, self._since = event.round, event.time.timestamp()
        self._asked, self._failed, self._answers = event.sites, set(), {}
        for name in event.sites:
            self._site(name).ask(event.round, self._since)

    def _note_answer(self, event: SiteAnswered) -> None:
        self._site(event.site).answer(event)
        self._answers[event.site] = event
        self._failed.discard(event.site)
        self.alarms.settle("site-lost", "site-late", "site-refused", site=event.site)
        if not event.clipped:
            self.alarms.settle("clipping", site=event.site)

    def _note_return(self, event: SiteAskedAgain) -> None:
        if event.site in self._sites:  # a node that has not enrolled has a number for a name
            site = self._site(event.site)
            site.since, site.note = event.time.timestamp(), "was lost, is back, is asked again"
        sentence = f"{event.site} was lost in round {event.round}, is back, and is asked again"
        self._raise(event, "site-lost", sentence, site=event.site)

    def _note_failure(self, event: SiteFailed) -> None:
        lost = event.code.startswith("flower-")
        phase = "lost" if lost else "late" if event.code == _LATE else "refused"
        if event.site in self._sites:
            site = self._site(event.site)
            site.fail(phase, event)
        sentence = f"{event.site} is not in round {event.round}: {event.sentence}"
        self._raise(event, f"site-{phase}", sentence, site=event.site)
        if event.site in self._asked:
            self._failed.add(event.site)
            self._check_quorum(event)

    def _check_quorum(self, event: SiteFailed) -> None:
        """Raise an alarm when a round can lose no further site, or has too few already."""
        least = self.started.minimum_sites if self.started else 0
        left = len(self._asked) - len(self._failed)
        if left <= least:
            what = "one more lost site ends it" if left == least else "it cannot be closed"
            sentence = f"round {event.round} has {left} sites left and needs {least}: {what}"
            self._raise(event, "quorum", sentence)

    def _note_close(self, event: RoundClosed) -> None:
        self._complete = event.round
        self._lately.append(event.seconds)
        self._closings += 1
        self._closing_s += event.seconds
        if all(name in self._answers for name in event.sites):
            row = summarise_round(event, self._answers, {})
            shown = json.dumps(
                {
                    "asked": len(self._asked),
                    "sites": len(row.sites),
                    "seconds": row.seconds,
                    "ahead": row.ahead_s,
                    "total": row.total_s,
                    "up": row.bytes_up,
                    "down": row.bytes_down,
                }
            )
            self._keep("rounds", self._rounds, event.round, shown)
        self.alarms.settle("quorum")

    def _note_metrics(self, event: MetricsReleased) -> None:
        if event.split not in self._metrics:  # of personal models: the log tells them
            return
        metrics = event.metrics
        row = {name: metrics[name] for name in CURVES if name in metrics}
        row["classes"] = {
            label: {name: figures[name] for name in CLASS_CURVES if name in figures}
            for label, figures in metrics.get("classes", {}).items()
        }
        self._keep(event.split, self._metrics[event.split], event.round, json.dumps(row))
        if "accuracy" in metrics and (event.split == "test" or not self._metrics["test"]):
            self._accuracy = metrics["accuracy"]  # the final model's, once there is one

    def _keep(self, section: str, rows: dict[str, str], number: int, row: str) -> None:
        """Keep a round's row: the last, and of a very long study's earlier ones every so many."""
        step = -(-self.started.rounds // _MOST_ROWS) if self.started else 1
        last = next(reversed(rows), "0")
        if int(last) % step and int(last) < number:
            del rows[last]
            self.changes.forget(section, last)
        rows[str(number)] = row
        self.changes.note(section, str(number))

    def _note_end(self, event: StudyFailed) -> None:
        self.state, self._failure = "stopped", event.sentence
        for name, site in self._sites.items():
            if site.phase == "working":
                site.phase = "stopped"
                self.changes.note("sites", name)
        self._raise(event, "ended", f"the run ended early: {event.sentence}")

    def _raise(
        self,
        event: Alarm | SiteFailed | SiteAskedAgain | StudyFailed,
        code: str,
        sentence: str,
        *,
        site: str = "",
    ) -> None:
        time = event.time.timestamp()
        self.alarms.add(code, sentence, time=time, number=event.round, site=site)

    # Rows

    def _row(self, section: str, row: str) -> str:
        """A part of the state as JSON."""
        match section:
            case "rounds":
                return self._rounds[row]
            case "validation" | "test":
                return self._metrics[section][row]
            case "sites":
                return json.dumps(self._sites[row].to_row())
            case "alarms":
                return json.dumps(self.alarms.to_row(row))
            case _:
                return json.dumps(self._study_row() if section == "study" else self._now_row())

    def _site(self, name: str) -> SiteState:
        """A site, which is about to change."""
        self.changes.note("sites", name)
        if name not in self._sites:
            self._sites[name] = SiteState()
        return self._sites[name]

    def _study_row(self) -> dict[str, Any]:
        begun = self.started
        row = begun.model_dump(mode="json", exclude=_UNSHOWN) if begun else {}
        return row | {"begun": self._begun, "earlier_runs": self.earlier_runs}

    def _now_row(self) -> dict[str, Any]:
        closed = self._closed
        return {
            "state": self.state,
            "round": self._round,
            "since": self._since,
            "complete": self._complete,
            "asked": len(self._asked),
            "answered": len(self._answers),
            "failed": len(self._failed),
            "round_s": median(self._lately) if self._lately else None,
            "last": self.last,
            "failure": self._failure,
            "seconds": closed.seconds if closed else None,
            "model_sha256": closed.model_sha256 if closed else "",
        }
