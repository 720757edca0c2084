"""Adds a round's total up again from the vectors that were kept, with the public key alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ppfl.codec import SealedVector
from ppfl.crypto import read_public_key
from ppfl.errors import MalformedMessageError, RecordError
from ppfl.federation.ciphertexts import CIPHERTEXTS, KeptCiphertexts
from ppfl.federation.journal import RoundClosed
from ppfl.settings import Study


def recompute(run: Path, study: Study, record: RoundClosed, *, values: int) -> str:
    """What came of a round's total: ``added up again``, or ``ciphertexts not kept``.

    Raises:
        RecordError: a vector is missing or another one, or their sum is not the total.
        PpflError: the public key cannot be read, or is not the study's.
    """
    kept, name = KeptCiphertexts(run / CIPHERTEXTS), f"round {record.round}"
    vectors = {site: kept.read(record.round, site) for site in record.sites}
    if not any(vectors.values()):
        if study.federation.keep_ciphertexts:
            raise RecordError(f"{name}: its vectors should have been kept, and are not there")
        return "ciphertexts not kept"
    from sites.vectors import create_suite  # it loads torch, which nothing else of an audit needs

    encrypted = study.encryption.custody != "unsafe_plaintext"
    suite = create_suite(study, read_public_key(run / "public.key") if encrypted else None)
    total: SealedVector | None = None
    for site, wire in vectors.items():
        if wire is None:
            raise RecordError(f"{name}: the vector of {site} was kept, and is not there")
        if hashlib.sha256(wire).hexdigest() != record.vectors.get(site):
            raise RecordError(f"{name}: the kept vector of {site} is not the one that was added")
        try:
            total = suite.add(total, suite.read(wire, values=values))
        except MalformedMessageError as error:
            raise RecordError(f"{name}: the kept vector of {site}: {error}") from None
    if total is None or hashlib.sha256(total.to_bytes()).hexdigest() != record.total_sha256:
        raise RecordError(f"{name}: its vectors do not add up to the total that was recorded")
    return "added up again"
