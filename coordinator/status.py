"""`ppfl coordinator status` and `stop`: what runs, and how far the study is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from coordinator.control import Control
from ppfl.errors import RunError
from ppfl.federation.journal import (
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
from ppfl.federation.journal_file import read_lines
from ppfl.running import Running, read_running
from ppfl.settings import CoordinatorFile, Study
from ppfl.uploads import UPLOADS, Sending, read_uploads

State = Literal["not begun", "running", "stopped", "closed"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is, from its journal.

    ``round`` is the one being worked on, 0 for enrolment; ``complete`` are those whose total is on
    disk. ``sites`` says of each site what was last heard of it. ``failure`` is why the last run
    ended early, and empty while one is under way.
    """

    begun: bool
    closed: bool
    round: int
    complete: int
    sites: dict[str, str]
    failure: str


def read_progress(study: Study, run: Path) -> Progress:
    """How far the study's run in a folder is.

    Raises:
        RunError: its journal cannot be read.
    """
    begun = closed = False
    current = complete = 0
    sites = dict.fromkeys(study.federation.sites, "nothing heard yet")
    failure = ""
    journal = run / "journal.jsonl"
    for line in read_lines(journal) if journal.exists() else ():
        match line.event():
            case StudyStarted() as event:
                begun, failure = True, ""
                current = complete = event.resumed_after
            case RoundStarted() as event:
                current = event.round
            case RoundClosed() as event:
                complete = event.round
            case SiteEnrolled() as event:
                sites[event.site] = "enrolled"
            case SiteAnswered() as event:
                sites[event.site] = f"answered in round {event.round}"
            case SiteAskedAgain() as event if event.site in sites:
                sites[event.site] = f"lost in round {event.round}, asked again: {event.code}"
            case SiteFailed() as event if event.site in sites:
                sites[event.site] = f"failed in round {event.round}: {event.code}"
            case StudyFailed() as event:
                failure = f"{event.code}: {event.sentence}"
            case StudyClosed():
                closed = True
    return Progress(begun, closed, current, complete, sites, failure)


@dataclass(frozen=True, slots=True)
class Status:
    """What a coordinator does.

    ``connected`` are the sites that SuperLink has on the line, None where it does not answer;
    ``sending`` is what comes in just now of the sites' answers.
    """

    study: Study
    state: State
    running: Running
    progress: Progress
    connected: frozenset[str] | None
    sending: Mapping[str, Sending]

    def to_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        progress = asdict(self.progress) | {"rounds": self.study.training.rounds}
        sites = [
            {
                "name": name,
                "connected": None if self.connected is None else name in self.connected,
                "last": last,
                "sending": asdict(self.sending[name]) if name in self.sending else None,
            }
            for name, last in progress.pop("sites").items()
        ]
        return {
            "study": self.study.name,
            "state": self.state,
            **{name: progress[name] for name in ("round", "complete", "rounds", "failure")},
            "sites": sites,
            "pid": self.running.pid,
            "programs": list(self.running.programs),
        }

    def to_lines(self) -> Iterator[str]:
        """All of it, for people."""
        progress, rounds = self.progress, self.study.training.rounds
        yield f"study {self.study.name}: {self.state}"
        if progress.begun:
            yield f"rounds: {progress.complete} of {rounds} complete, round {progress.round} begun"
        if progress.failure:
            yield f"the last run ended: {progress.failure}"
        for name, last in progress.sites.items():
            line = "" if self.connected is None else "connected; "
            if self.connected is not None and name not in self.connected:
                line = "not connected; "
            yield f"site {name}: {line}{last}{_tell(self.sending.get(name))}"
        for program in self.running.programs:
            where = f", process {program['pid']}" if program["pid"] else ""
            yield f"{program['name']}: {program['state']}{where}, started {program['starts']} times"


def read_status(settings: CoordinatorFile, folder: Path) -> Status:
    """What the coordinator with these settings does.

    Args:
        settings: the coordinator's.
        folder: where its processes keep their status and logs.

    Raises:
        RunError: its status or journal cannot be read.
        SettingsError: the study cannot be read.
    """
    study, running = Study.read(settings.study), read_running(folder)
    progress = read_progress(study, settings.run)
    state: State = "running" if running.pid is not None else "stopped"
    if progress.closed:
        state = "closed"
    elif running.pid is None and not progress.begun:
        state = "not begun"
    connected, sending = None, dict[str, Sending]()
    if running.pid is not None:
        connected, sending = _connected(settings), read_uploads(settings.run / UPLOADS)
    return Status(study, state, running, progress, connected, sending)


def _tell(sending: Sending | None) -> str:
    if sending is None:
        return ""
    ago_s = max(time.time() - sending.last, 0.0)
    return f"; sends, {sending.bytes / 1e6:.1f} MB so far, the last of it {ago_s:.0f} s ago"


def _connected(settings: CoordinatorFile) -> frozenset[str] | None:
    control = Control(settings.superlink_port, settings.ca_certificate)
    try:
        return frozenset(control.connected())
    except RunError:  # it is starting, or being started again
        return None
    finally:
        control.close()
