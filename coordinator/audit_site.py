"""What a site's own folder has to say about a run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path

from ppfl.crypto.signing import read_signing_key
from ppfl.errors import PpflError, RunError
from ppfl.federation.chain import Chain
from ppfl.federation.journal import (
    LeftHospital,
    LeftItem,
    ModelKept,
    RecordDisputed,
    RecordWitnessed,
)
from ppfl.federation.journal_file import read_lines
from ppfl.settings import SiteFile
from sites.leaving import METRICS


@dataclass(slots=True)
class Departure:
    """What left a hospital of one kind, in all: how often, in which rounds, and how many bytes.

    ``source`` is whose journal says so.
    """

    what: str
    protection: str
    source: str
    first: int
    last: int
    times: int = 0
    bytes: int = 0


class Departures:
    """All that left one hospital, summed by kind; a long run has very many answers."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sums: dict[tuple[str, str], Departure] = {}

    def add(self, number: int, items: Iterable[LeftItem]) -> None:
        """Add what left in one answer of a round."""
        for item in items:
            new = Departure(item.what, item.protection, self._source, number, number)
            found = self._sums.setdefault((item.what, item.protection), new)
            found.first, found.last = min(found.first, number), max(found.last, number)
            found.times, found.bytes = found.times + 1, found.bytes + item.bytes

    def sums(self) -> list[Departure]:
        """One for each kind, in the order in which they first left."""
        return list(self._sums.values())


@dataclass(slots=True)
class OtherRun:
    """What a site answered in a run that the coordinator's journal does not name.

    ``size`` is in bytes, ``records`` are the lines that it countersigned, by their study.
    """

    answers: int = 0
    size: int = 0
    records: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))


@dataclass(slots=True)
class SiteAudit:
    """A site's keys, the records that it was shown, and what left it.

    ``others`` are runs, by their names, which are in none of the other fields. ``released`` is
    whether it told the final figures, after which nothing leaves it. ``witnessed`` and ``disputed``
    are of (round, digest of the line or reason), ``sent`` the digests of the vectors that left it.
    """

    name: str
    journal_key: str = ""
    public: str = ""
    models: set[str] = field(default_factory=set)
    witnessed: list[tuple[int, str]] = field(default_factory=list)
    disputed: list[tuple[int, str]] = field(default_factory=list)
    left: Departures = field(default_factory=lambda: Departures("site"))
    sent: set[str] = field(default_factory=set)
    released: bool = False
    others: dict[str, OtherRun] = field(default_factory=lambda: defaultdict(OtherRun))
    findings: list[str] = field(default_factory=list)


def read_site(folder: Path, runs: Set[str]) -> SiteAudit:
    """What a site's folder says of some runs; what is wrong with its journal is in the findings.

    Raises:
        SettingsError: there is no site file in it.
    """
    settings = SiteFile.read(folder / "site.toml")
    found = SiteAudit(settings.name, journal_key=settings.journal_key)
    if settings.signing_key is not None:
        try:
            found.public = read_signing_key(settings.signing_key).public
        except PpflError as error:
            found.findings.append(str(error))
    chain = Chain()
    try:
        for line in read_lines(settings.work / "journal.jsonl"):
            try:
                _note(found, chain.accept(line), runs)
            except RunError as error:
                found.findings.append(str(error))
    except RunError as error:  # there is none
        found.findings.append(str(error))
    return found


def _note(found: SiteAudit, event: object, runs: Set[str]) -> None:
    match event:
        case LeftHospital(run=run) if run in runs:
            found.left.add(event.round, event.items)
            sealed = any(item.sha256 for item in event.items)
            found.released |= not sealed and any(item.what == METRICS for item in event.items)
            found.sent |= {item.sha256 for item in event.items}
        case RecordWitnessed(run=run) if run in runs:
            digest = hashlib.sha256(event.record.encode()).hexdigest()
            found.witnessed.append((event.round, digest))
        case RecordDisputed(run=run) if run in runs:
            found.disputed.append((event.round, event.reason))
        case LeftHospital(run=run):
            other = found.others[run]
            other.answers += 1
            other.size += sum(item.bytes for item in event.items)
        case RecordWitnessed(run=run):
            found.others[run].records[event.study_fingerprint].append(event.record.encode())
        case ModelKept():
            found.models.add(event.sha256)
