from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.records import Records
from coordinator.roster import Answered
from ppfl.crypto.signing import create_signing_key, key_fingerprint
from ppfl.errors import KeyFileError
from ppfl.federation import Journal, read_journal
from ppfl.federation.journal import (
    Alarm,
    RecordDisputed,
    RecordWitnessed,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
)
from ppfl.federation.site_keys import SITE_KEYS, SiteKeys
from ppfl.settings import SiteFile, Study
from sites.identity import create_identity
from sites.requests import Answer, Request
from sites.witness import Witness

_TOTAL, _OWN = b"the sum", b"what this site sealed"
_OWN_SHA256 = hashlib.sha256(_OWN).hexdigest()
_STUDY = Study.model_validate(
    {"name": "s", "classes": ["x", "y"], "federation": {"sites": ["a", "b"]}}
)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Between:
    """A coordinator and the site a, which signs with its node key as between hospitals."""

    def __init__(self, folder: Path) -> None:
        card = create_identity("a", folder / "a")
        SiteKeys(keys={"a": card.node_key, "b": card.node_key}).write(folder / SITE_KEYS)
        self.signer = create_signing_key(folder / "journal.key")
        self.journal = Journal(folder / "journal.jsonl", signer=self.signer)
        self.records = Records(folder, _STUDY, self.journal)
        self.site = SiteFile(
            name="a",
            data=folder,
            signing_key=folder / "a" / "supernode.key",
            journal_key=self.signer.public,
        )
        self.own = Journal(folder / "a" / "journal.jsonl")

    def request(self, *, total: bytes = _TOTAL, own: bytes = _OWN, number: int = 4) -> Request:
        vectors = {"a": _sha256(own), "b": "0" * 64}
        closed = RoundClosed(
            round=3, sites=("a", "b"), seconds=1, total_sha256=_sha256(total), vectors=vectors
        )
        self.records.close(closed)
        study = _STUDY.fingerprint()
        return Request(study, "run", number, total=_TOTAL, record=self.records.line)

    def countersign(self, request: Request, *, own_sha256: str = _OWN_SHA256) -> str:
        witness = Witness(self.site, _STUDY, self.own)
        return witness.countersign(request, own_sha256=own_sha256)

    def note(self, signature: str, site: str = "a") -> RoundCountersigned | Alarm:
        self.records.note(Answered(1, site, Answer(countersignature=signature)), 4)
        event = read_journal(self.journal.path)[-1]
        assert isinstance(event, RoundCountersigned | Alarm)
        return event


@pytest.fixture
def between(tmp_path: Path) -> _Between:
    return _Between(tmp_path)


@pytest.mark.parametrize("own", [_OWN_SHA256, ""], ids=["known", "not known"])
def test_a_site_signs_the_record_that_it_is_shown_and_keeps_it(between: _Between, own: str) -> None:
    request = between.request()
    noted = between.note(between.countersign(request, own_sha256=own))
    assert isinstance(noted, RoundCountersigned)
    assert (noted.round, noted.site, noted.record_sha256) == (3, "a", _sha256(request.record))
    (kept,) = read_journal(between.own.path)
    assert isinstance(kept, RecordWitnessed)
    assert (kept.run, kept.round, kept.record.encode()) == ("run", 3, request.record)


def test_a_record_that_is_not_what_the_site_knows_is_not_signed(between: _Between) -> None:
    good = between.request()
    other = create_signing_key(between.site.data / "other.key")
    forged = Journal(between.site.data / "forged.jsonl", signer=other)
    unsigned = Journal(between.site.data / "unsigned.jsonl")
    closed = RoundClosed(round=3, sites=("a",), seconds=1, total_sha256=_sha256(_TOTAL))
    for request, reason in (
        (replace(good, round_number=5), "no record of round 4"),
        (replace(good, record=b"{}"), "journal version"),
        (replace(good, record=b"\xff"), "no record of round 3"),
        (
            replace(good, record=unsigned.write(RoundStarted(round=3, sites=("a",)))),
            "no record of round 3",
        ),
        (replace(good, record=unsigned.write(closed)), "did not sign it"),
        (replace(good, record=forged.write(closed)), "signature does not fit"),
        (replace(good, record=good.record.replace(b'"seconds":1', b'"seconds":2')), "not fit"),
        (between.request(total=b"another"), "another total"),
        (between.request(own=b"another"), "another vector is in the total"),
    ):
        assert between.countersign(request) == ""
        disputed = read_journal(between.own.path)[-1]
        assert isinstance(disputed, RecordDisputed)
        assert reason in disputed.reason


def test_a_site_without_keys_and_a_request_without_a_record_lead_to_no_signature(
    between: _Between,
) -> None:
    request = between.request()
    assert between.countersign(replace(request, record=b"")) == ""
    key, between.site = (
        between.site.signing_key,
        between.site.model_copy(update={"signing_key": None}),
    )
    assert between.countersign(request) == ""
    assert not between.own.path.exists()
    assert key is not None
    key.write_text("no key")
    between.site = between.site.model_copy(update={"signing_key": key})
    with pytest.raises(KeyFileError, match="holds no private key that signs"):
        between.countersign(request)


def test_the_coordinator_takes_no_signature_that_is_not_the_sites(between: _Between) -> None:
    signature = between.countersign(between.request())
    for false, site, reason in (
        ("", "a", "it sent no signature"),
        (signature[:-2] + "00", "a", "does not fit"),
        ("zz", "a", "does not fit"),
        (signature, "b", "does not fit"),  # b's key is the same here, its name is not
        (signature, "stranger", "does not fit"),
    ):
        alarm = between.note(false, site)
        assert isinstance(alarm, Alarm)
        assert alarm.code == "not-countersigned"
        assert alarm.sentence.endswith(reason)
        assert alarm.sentence.startswith(f"{site} did not countersign the record of round 3")
    assert isinstance(between.note(signature), RoundCountersigned)


def test_a_fingerprint_is_as_ssh_keygen_prints_it() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    # GitHub publishes this key and its fingerprint
    assert key_fingerprint(line) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
    assert key_fingerprint("") == "no key"
