"""A site as a witness: it signs what the coordinator wrote down about a round, and keeps a copy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ppfl.crypto.signing import read_signing_key
from ppfl.errors import RecordError, RunError
from ppfl.federation import Journal, Line
from ppfl.federation.journal import RecordDisputed, RecordWitnessed, RoundClosed
from ppfl.federation.records import check_record, countersignature_statement
from ppfl.settings import SiteFile, Study
from sites.requests import Request


class Witness:
    """Countersigns the coordinator's records for one site.

    A record that is not what this site knows is not countersigned: that is written to the site's
    own journal, and the study goes on, because the coordinator can see that a signature is missing
    and whoever audits the run as well.
    """

    def __init__(self, site: SiteFile, study: Study, journal: Journal) -> None:
        self._site, self._study, self._journal = site, study, journal

    def countersign(self, request: Request, *, own_sha256: str) -> str:
        """The site's signature under the record in a request; empty if there is none to be had.

        Args:
            request: a record comes with the total that it is about.
            own_sha256: of the vector that this site sealed in that round, empty if not known.

        Raises:
            KeyFileError: the site's signing key cannot be used.
        """
        site = self._site
        if not request.record or site.signing_key is None or not site.journal_key:
            return ""
        signer, number = read_signing_key(site.signing_key), request.round_number - 1
        try:
            self._check(request, own_sha256)
        except RunError as error:
            disputed = RecordDisputed(run=request.run, round=number, reason=str(error))
            self._journal.write(disputed)
            return ""
        study = self._study.fingerprint()
        witnessed = RecordWitnessed(
            run=request.run, study_fingerprint=study, round=number, record=request.record.decode()
        )
        self._journal.write(witnessed)
        statement = countersignature_statement(study, site.name, request.record)
        return signer.sign(statement)

    def _check(self, request: Request, own_sha256: str) -> None:
        record = Line(Path("the coordinator's record"), 0, 0, request.record).event()
        if not isinstance(record, RoundClosed) or record.round != request.round_number - 1:
            raise RecordError(f"what was shown is no record of round {request.round_number - 1}")
        check_record(request.record, record, public=self._site.journal_key)
        if record.total_sha256 != hashlib.sha256(request.total).hexdigest():
            raise RecordError("the record is of another total than the one that came with it")
        told = record.vectors.get(self._site.name)
        if told and own_sha256 and told != own_sha256:
            raise RecordError("another vector is in the total than the one that this site sent")
