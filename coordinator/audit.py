"""`ppfl audit`: whether a run's record is what was written and signed, and what left each site."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.audit_site import Departure, Departures, SiteAudit, read_site
from coordinator.audit_totals import recompute
from ppfl.crypto.signing import check_signature, key_fingerprint
from ppfl.errors import PpflError, RecordError, RunError
from ppfl.federation import Checkpoint, Line
from ppfl.federation.chain import Chain
from ppfl.federation.journal import (
    AnyEvent,
    LeftItem,
    MeanXRaysReleased,
    Record,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.federation.journal_file import read_lines
from ppfl.federation.records import check_record, countersignature_statement
from ppfl.settings import Study


@dataclass(frozen=True, slots=True)
class AuditedRound:
    """A complete round: who was in it, who countersigned its record, what became of its total.

    ``total`` is ``added up again``, ``ciphertexts not kept``, or ``wrong``.
    """

    number: int
    line: int
    sites: tuple[str, ...]
    countersigned: tuple[str, ...]
    total: str


@dataclass(slots=True)
class Audit:
    """What came out: ``findings`` are what is wrong, ``notes`` what else should be known."""

    run: str = ""
    study: str = ""
    events: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    rounds: list[AuditedRound] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: dict[str, list[Departure]] = field(default_factory=dict)


def audit(run: Path, sites: Iterable[Path] = ()) -> Audit:
    """Check a run's journal against its own chain, its signatures, its files, and sites' journals.

    Args:
        run: the run's folder, as the coordinator has it.
        sites: folders of sites; in a simulation those in the run's folder are taken as well.

    Raises:
        RunError: there is no journal, or it is of another version.
        SettingsError: the study, or a site's file, cannot be read.
    """
    own = dict.fromkeys(path.resolve() for path in [*sites, *sorted(run.glob("sites/*"))])
    found, journal = Audit(), _Journal(run / "journal.jsonl", keeps_vectors=bool(own))
    journal.check(found)
    study = Study.read(run / "study.toml")
    if journal.started and study.fingerprint() != journal.started.study_fingerprint:
        found.findings.append(f"{run / 'study.toml'}: is not the study that the journal names")
    _check_checkpoint(run, study, journal, found)
    values = journal.started.values if journal.started else 0
    for closed in journal.closed.values():
        record = RoundClosed.model_validate_json(journal.reread(closed))
        try:
            total = recompute(run, study, record, values=values)
        except PpflError as error:
            found.findings.append(str(error))
            total = "wrong"
        signers = sorted(journal.countersigned[closed.digest])
        names = tuple(map(sys.intern, record.sites))
        found.rounds.append(AuditedRound(closed.number, closed.line, names, tuple(signers), total))
    for folder in own:
        _check_site(read_site(folder, journal.runs), journal, found)
    for name, departures in journal.left.items():
        found.left.setdefault(name, departures.sums())
    if any(sums and sums[0].source == "coordinator" for sums in found.left.values()):
        found.notes.append(
            "what left a hospital is told by the coordinator's journal where the hospital's own is "
            "not given (--site): closing answers and what sites release are not counted there"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Closed:
    """The record of a round: where it stands, its digest, and that of the total that it names."""

    number: int
    line: int
    start: int
    digest: str
    total_sha256: str


class _Journal:
    """The coordinator's journal, looked through once; its lines are not kept.

    Args:
        path: the journal.
        keeps_vectors: whether there are sites to compare all digests of their answers with.
    """

    def __init__(self, path: Path, *, keeps_vectors: bool) -> None:
        self._path, self._keeps_vectors = path, keeps_vectors
        self.started: StudyStarted | None = None
        self._run = ""  # the last one
        self.runs: set[str] = set()
        self.closed: dict[int, _Closed] = {}  # by round, as it ended
        self.records: set[str] = set()
        self.vectors: dict[str, set[str]] = defaultdict(set)
        self.countersigned: dict[str, set[str]] = defaultdict(set)
        self.left: dict[str, Departures] = defaultdict(lambda: Departures("coordinator"))
        self.model: str | None = None  # once the study is closed
        self._shown: _Closed | None = None
        self._shown_raw = b""
        self._answered: dict[str, str] = {}
        self._unsigned = 0

    def check(self, found: Audit) -> None:
        """Look through all lines.

        Raises:
            RunError: there is no journal, or it is of another version from its first line on.
        """
        chain, last = Chain(), None
        for line in read_lines(self._path):
            try:
                event = chain.accept(line)
            except RecordError as error:
                found.findings.append(str(error))
                event = line.event()
            except RunError as error:
                if line.number == 1:
                    raise
                found.findings.append(str(error))
                continue
            if event is None:
                continue
            last, found.events = event, found.events + 1
            self._unsigned = 0 if isinstance(event, Record) else self._unsigned + 1
            found.findings += [
                f"{self._path}, line {line.number}: {what}" for what in self._look(line, event)
            ]
        if self.started is None:
            found.findings.append(f"{self._path}: does not say which study began")
        else:
            found.run, found.study = self._run, self.started.study
            if len(self.runs) > 1:
                found.notes.append(
                    f"the study began anew {len(self.runs) - 1} times; what left is told of all "
                    "runs together, the rest of the last"
                )
            keys = {"the coordinator": self.started.journal_key} | self.started.site_keys
            found.keys = {name: key_fingerprint(key) for name, key in keys.items()}
        found.notes += self._notes(chain, last)

    def reread(self, closed: _Closed) -> bytes:
        """The line of a record once more."""
        with self._path.open("rb") as file:
            file.seek(closed.start)
            return file.readline().removesuffix(b"\n")

    def _look(self, line: Line, event: AnyEvent) -> Iterator[str]:
        """What is wrong with one event."""
        if isinstance(event, StudyStarted):
            yield from self._start(event)
        if isinstance(event, Record) and self.started:
            try:
                check_record(line.raw, event, public=self.started.journal_key)
            except RecordError as error:
                yield f"the record `{event.event}`: {error}"
        match event:
            case SiteEnrolled():
                what = "sealed vector: counts of images and sums of pixels"
                self._leave(event.site, 0, LeftItem(**self._sealed(what, event.bytes_up)))
            case MeanXRaysReleased():
                for site in event.sites:
                    what = "sealed vector: sums of the X-rays of each class"
                    self._leave(site, 0, LeftItem(**self._sealed(what, event.bytes_up)))
            case RoundStarted():
                self._answered = {}
            case SiteAnswered():
                yield from self._answer(event)
            case RoundClosed():
                yield from self._close(line, event)
            case RoundCountersigned():
                yield from self._countersign(event)
            case StudyClosed():
                self.model = event.model_sha256
                if not event.model_sha256:
                    yield "no majority of the sites holds the same model"
                for site in event.sites:
                    yield from self._lacks(site, event.rounds)

    def _start(self, event: StudyStarted) -> Iterator[str]:
        first = self.started = self.started or event
        self._run = event.run
        self.runs.add(event.run)
        self._shown = self.closed.get(event.resumed_after)
        self._shown_raw = self.reread(self._shown) if self._shown else b""
        if event.study_fingerprint != first.study_fingerprint:
            yield "another study begins here: two runs are mixed in this journal"
        if (event.journal_key, event.site_keys) != (first.journal_key, first.site_keys):
            yield "from here on other keys sign than before"

    def _answer(self, event: SiteAnswered) -> Iterator[str]:
        self._answered[event.site] = event.sealed_sha256
        if self._keeps_vectors:
            self.vectors[event.site].add(event.sealed_sha256)
        sealed = self._sealed("sealed vector: the update, and counts of validation", event.bytes_up)
        clear = "seconds of each phase, digest of the opened model, the federation's metrics"
        self._leave(
            event.site,
            event.round,
            LeftItem(**sealed, sha256=event.sealed_sha256),
            LeftItem(what=clear, protection="none, in the clear", bytes=event.clear_bytes),
        )
        if event.round > 1:
            yield from self._lacks(event.site, event.round - 1)

    def _lacks(self, site: str, number: int) -> Iterator[str]:
        """Whether a site went on without countersigning the record of a round, or without one."""
        if self._shown is None or self._shown.number != number:
            yield f"{site} went on, but no record of round {number} stands before"
        elif site not in self.countersigned[self._shown.digest]:
            yield f"{site} went on, but did not countersign the record of round {number}"

    def _close(self, line: Line, event: RoundClosed) -> Iterator[str]:
        digest = hashlib.sha256(line.raw).hexdigest()
        self._shown = self.closed[event.round] = _Closed(
            event.round, line.number, line.start, digest, event.total_sha256
        )
        self._shown_raw = line.raw
        self.records.add(digest)
        counted = {site: self._answered.get(site) for site in event.sites}
        if counted != event.vectors:
            yield f"the record of round {event.round} does not name the vectors that were added"

    def _countersign(self, event: RoundCountersigned) -> Iterator[str]:
        shown, started = self._shown, self.started
        if shown is None or started is None or event.record_sha256 != shown.digest:
            yield f"{event.site} countersigned a record of round {event.round} that is not there"
            return
        statement = countersignature_statement(
            started.study_fingerprint, event.site, self._shown_raw
        )
        public = started.site_keys.get(event.site, "")
        try:
            check_signature(statement, event.signature, public=public)
        except RecordError as error:
            yield f"{event.site} under the record of round {event.round}: {error}"
        else:
            self.countersigned[shown.digest].add(sys.intern(event.site))

    def _sealed(self, what: str, size: int) -> dict[str, Any]:
        protection = self.started.protection if self.started else ""
        return {"what": what, "protection": protection, "bytes": size}

    def _leave(self, site: str, number: int, *items: LeftItem) -> None:
        self.left[site].add(number, items)

    def _notes(self, chain: Chain, last: AnyEvent | None) -> Iterator[str]:
        for number in chain.torn:
            yield f"line {number} was torn by a crash; nothing hangs on it"
        if not isinstance(last, StudyClosed | StudyFailed):
            yield (
                "the journal ends in the midst of the study: it goes on, broke off there, or was "
                "cut off; only a site's own journal can tell (--site)"
            )
        if self._unsigned:
            yield f"the last {self._unsigned} events stand after the last record: nothing is signed"


def _check_checkpoint(run: Path, study: Study, journal: _Journal, found: Audit) -> None:
    """Whether the journal goes as far as the checkpoint."""
    path = run / "checkpoint.bin"
    if not path.exists():
        return
    try:
        kept = Checkpoint.read(path, study=study.fingerprint())
    except PpflError as error:
        found.findings.append(str(error))
        return
    closed = journal.closed.get(kept.round_number)
    if closed is None:
        found.findings.append(
            f"{path}: is of round {kept.round_number}, whose record is not in the journal: its end "
            "was cut off (or the run was killed between both; going on with it mends that)"
        )
    elif closed.total_sha256 != hashlib.sha256(kept.total).hexdigest():
        found.findings.append(f"{path}: is not the total of round {kept.round_number}")


def _is_signed(raw: bytes, public: str) -> bool:
    """Whether a copy of a record bears the signature of this coordinator."""
    try:
        event = Line(Path("a copy of a record"), 0, 0, raw).event()
        if not isinstance(event, RoundClosed):
            return False
        check_record(raw, event, public=public)
    except RunError:
        return False
    return True


def _check_site(site: SiteAudit, journal: _Journal, found: Audit) -> None:
    """A site's own journal against the coordinator's."""
    started = journal.started
    found.findings += site.findings
    if started and site.journal_key and site.journal_key != started.journal_key:
        found.findings.append(f"site {site.name}: knows another coordinator's key than signed here")
    if started and site.public and site.public != started.site_keys.get(site.name):
        found.findings.append(f"site {site.name}: has another key than this journal says")
    for run, other in site.others.items():
        ours: list[bytes] = []
        if started:
            records = other.records[started.study_fingerprint]
            ours = [raw for raw in records if _is_signed(raw, started.journal_key)]
        sentence = (
            f"site {site.name}: answered run {run} {other.answers} times ({other.size:,} bytes), "
            "which this journal does not name"
        )
        if ours:
            found.findings.append(f"{sentence}, though {len(ours)} records of it are signed here")
        else:
            found.notes.append(f"{sentence}: of another study, or begun before this one")
    for number, digest in site.witnessed:
        if digest not in journal.records:
            found.findings.append(
                f"site {site.name}: was shown a record of round {number} that is not in the "
                "journal: it was changed since, or its end was cut off"
            )
    for number, reason in site.disputed:
        found.findings.append(f"site {site.name}, round {number}: {reason}")
    left = site.left.sums()
    vectors = journal.vectors[site.name]
    if vectors and not left:  # emptied, or of before the run; what is known is the coordinator's
        found.findings.append(
            f"site {site.name}: {len(vectors)} vectors of it were added, and by its own journal "
            "nothing left it in this run"
        )
    else:
        found.left[site.name] = left
        found.findings += [
            f"site {site.name}: a vector was added that, by its own journal, never left it "
            f"({digest[:16]}…)"
            for digest in sorted(vectors - site.sent)
        ]
    if site.released and journal.model is None:
        found.findings.append(
            f"site {site.name}: has told the final figures, but the journal does not say that the "
            "study closed: its end was cut off (or the run was killed in its last seconds; going "
            "on with it mends that)"
        )
    if site.models and journal.model and journal.model not in site.models:
        found.findings.append(f"site {site.name}: keeps another model than the journal names")
