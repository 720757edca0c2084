"""The record of the last complete round: signed here, shown to the sites, countersigned by them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from coordinator.roster import Answered
from ppfl.crypto.signing import check_signature
from ppfl.errors import RecordError
from ppfl.federation import Journal
from ppfl.federation.journal import (
    Alarm,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
)
from ppfl.federation.journal_file import read_lines
from ppfl.federation.records import countersignature_statement
from ppfl.federation.site_keys import SITE_KEYS, SiteKeys
from ppfl.settings import Study, read_settings


class Records:
    """The record of the last complete round of a run, ``line``, empty before the first.

    Args:
        folder: the run's folder, in which the sites' public keys lie.
        study: the run's study.
        journal: where records and countersignatures are written.

    Raises:
        SettingsError: the sites' keys cannot be read.
    """

    def __init__(self, folder: Path, study: Study, journal: Journal) -> None:
        self._study, self._journal = study, journal
        self.site_keys = read_settings(folder / SITE_KEYS, SiteKeys).keys
        self.line = b""
        self.sites: tuple[str, ...] = study.federation.sites

    def close(self, record: RoundClosed) -> None:
        """Write the record of a round that is complete."""
        self.line, self.sites = self._journal.write(record), record.sites

    def resume(self, number: int, total: bytes) -> None:
        """Find the record of the round after which a run goes on.

        A crash may have come between the checkpoint and the record, which is then written now:
        all that it says is in the journal. It took until the last answer, as far as that tells.
        """
        digest = hashlib.sha256(total).hexdigest()
        found: tuple[bytes, tuple[str, ...]] | None = None
        inside: dict[str, SiteAnswered] = {}
        began = None
        for line in read_lines(self._journal.path) if self._journal.path.exists() else ():
            match line.event():
                case RoundStarted(round=at, time=time) if at == number:
                    inside, began = {}, time
                case SiteAnswered(round=at) as answered if at == number:
                    inside[answered.site] = answered
                case RoundClosed(round=at, total_sha256=told, sites=sites) if (at, told) == (
                    number,
                    digest,
                ):
                    found = line.raw, sites
        if found:
            self.line, self.sites = found
        elif began and inside:
            last = max(answered.time for answered in inside.values())
            self.close(
                RoundClosed(
                    round=number,
                    sites=tuple(inside),
                    seconds=round((last - began).total_seconds(), 3),
                    total_sha256=digest,
                    vectors={site: answered.sealed_sha256 for site, answered in inside.items()},
                )
            )

    def note(self, answered: Answered, number: int) -> None:
        """Write down that a site countersigned the record that it was shown, or an alarm.

        Args:
            answered: its answer.
            number: the round that was asked for, one after that of the record.
        """
        if not self.line:
            return
        site, signature = answered.site, answered.answer.countersignature
        try:
            if not signature:
                raise RecordError("it sent no signature")
            statement = countersignature_statement(self._study.fingerprint(), site, self.line)
            check_signature(statement, signature, public=self.site_keys.get(site, ""))
        except RecordError as error:
            sentence = f"{site} did not countersign the record of round {number - 1}: {error}"
            self._journal.write(
                Alarm(round=number, site=site, code="not-countersigned", sentence=sentence)
            )
            return
        self._journal.write(
            RoundCountersigned(
                round=number - 1,
                site=site,
                record_sha256=hashlib.sha256(self.line).hexdigest(),
                signature=signature,
            )
        )
