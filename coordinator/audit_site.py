"""What a site's own folder has to say about a run."""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True, slots=True)
class Departure:
    """What left a hospital in one answer; ``source`` is whose journal says so."""

    round: int
    source: str
    run: str
    items: tuple[LeftItem, ...]


@dataclass(slots=True)
class SiteAudit:
    """A site's keys, the records that it was shown, and what left it.

    ``witnessed`` and ``disputed`` are of (run, round, digest of the line or reason).
    """

    name: str
    journal_key: str = ""
    public: str = ""
    models: set[str] = field(default_factory=set)
    witnessed: list[tuple[str, int, str]] = field(default_factory=list)
    disputed: list[tuple[str, int, str]] = field(default_factory=list)
    left: list[Departure] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def read_site(folder: Path) -> SiteAudit:
    """What a site's folder says; what is wrong with its own journal is among the findings.

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
                _note(found, chain.accept(line))
            except RunError as error:
                found.findings.append(str(error))
    except RunError as error:  # there is none
        found.findings.append(str(error))
    return found


def _note(found: SiteAudit, event: object) -> None:
    match event:
        case LeftHospital():
            found.left.append(Departure(event.round, "site", event.run, event.items))
        case RecordWitnessed():
            digest = hashlib.sha256(event.record.encode()).hexdigest()
            found.witnessed.append((event.run, event.round, digest))
        case RecordDisputed():
            found.disputed.append((event.run, event.round, event.reason))
        case ModelKept():
            found.models.add(event.sha256)
