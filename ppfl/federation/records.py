"""What the coordinator and the sites sign in a journal (docs/journal.md)."""

from __future__ import annotations

import hashlib

from ppfl.crypto.signing import check_signature
from ppfl.errors import RecordError
from ppfl.federation.journal import Record

_RECORD, _COUNTERSIGNED = b"ppfl-journal-record-v1\n", "ppfl-journal-countersignature-v1"


def record_statement(raw: bytes, signature: str) -> bytes:
    """What the coordinator signs: a record's line, without the signature in it.

    The line holds the digest of the one before, and so all of the journal up to here is signed.
    """
    return _RECORD + raw.replace(f'"signature":"{signature}"'.encode(), b'"signature":""', 1)


def check_record(raw: bytes, record: Record, *, public: str) -> None:
    """Check that the coordinator signed the line in which a record lies.

    Raises:
        RecordError: it did not, or another line.
    """
    if not record.signature:
        raise RecordError("the coordinator did not sign it")
    check_signature(record_statement(raw, record.signature), record.signature, public=public)


def countersignature_statement(study: str, site: str, raw: bytes) -> bytes:
    """What a site signs when it is shown a record: that it was shown this line.

    Args:
        study: the study's fingerprint.
        site: the site's name.
        raw: the record's line, with the coordinator's signature in it.
    """
    digest = hashlib.sha256(raw).hexdigest()
    return f"{_COUNTERSIGNED}\n{study}\n{site}\n{digest}\n".encode()
