"""Requests and answers as Flower's records, read as strictly as bytes from a stranger."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import ValidationError

from ppfl.errors import MalformedMessageError
from sites.clear import ClearPart
from sites.requests import Answer, Refusal, Request

SEALED = "sealed"
"""The record in which a site's own vector travels."""

_SUMS = ("enrolled", "first_enrolled", "total")  # of a request
_STYPE = "ppfl.sealed.v1"  # no other code can take these bytes for numbers and average them
_LONGEST = 200  # characters of a refusal that are kept
_LONGEST_RECORD = 1024 * 1024  # bytes; a record has about 150 for each site


def write_request(request: Request) -> RecordDict:
    """A request as a message's content."""
    content = RecordDict()
    content["request"] = ConfigRecord(
        {
            "study": request.study,
            "run": request.run,
            "round": request.round_number,
            "record": request.record,
            "history": request.history,
        }
    )
    for name in _SUMS:
        if wire := getattr(request, name):
            write_sealed(content, name, wire)
    if request.start:
        content["start"] = ArrayRecord({name: Array(a) for name, a in request.start.items()})
    return content


def read_request(content: RecordDict) -> Request:
    """The coordinator's request.

    Raises:
        MalformedMessageError: it is incomplete.
    """
    try:
        config = content.config_records["request"]
        start = {
            name: np.asarray(array.numpy(), np.float32)
            for name, array in content.array_records.get("start", ArrayRecord()).items()
        }
        return Request(
            study=str(config["study"]),
            run=str(config["run"]),
            round_number=int(str(config["round"])),
            **{name: read_sealed(content, name) for name in _SUMS},
            record=_bytes(config["record"]),
            history=str(config["history"]),
            start=start,
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedMessageError("the coordinator's request is incomplete") from None


def write_answer(site: str, answer: Answer) -> RecordDict:
    """A site's answer as a message's content."""
    clear = ClearPart.of(site, answer)
    content = RecordDict()
    content["answer"] = ConfigRecord({"clear": clear.model_dump_json()})
    if answer.sealed:
        write_sealed(content, SEALED, answer.sealed)
    return content


def write_refusal(refusal: Refusal) -> RecordDict:
    """A refusal as a message's content."""
    content = RecordDict()
    content["refusal"] = ConfigRecord(
        {"site": refusal.site, "code": refusal.code, "sentence": refusal.sentence}
    )
    return content


def read_answer(content: RecordDict) -> tuple[str, Answer] | Refusal:
    """Who answered and what, or a refusal.

    Raises:
        MalformedMessageError: it is neither, or a field is not what it must be.
    """
    records = content.config_records
    try:
        if refusal := records.get("refusal"):
            return Refusal(*(str(refusal[k])[:_LONGEST] for k in ("site", "code", "sentence")))
        clear = ClearPart.model_validate_json(str(records["answer"]["clear"]))
        sealed = read_sealed(content, SEALED)
    except (KeyError, TypeError, ValueError, ValidationError):
        raise MalformedMessageError("the answer is not one of this protocol") from None
    return clear.site, clear.with_sealed(sealed)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > _LONGEST_RECORD:
        raise ValueError
    return value


def write_sealed(content: RecordDict, name: str, wire: bytes) -> None:
    """Put a sealed vector's bytes into a message; Flower cuts and streams them as an array."""
    array = Array(dtype="uint8", shape=(len(wire),), stype=_STYPE, data=wire)
    content[name] = ArrayRecord({"vector": array})


def read_sealed(content: RecordDict, name: str) -> bytes:
    """The bytes of a sealed vector in a message, empty where there is none.

    Raises:
        ValueError: the record holds something else.
    """
    record = content.array_records.get(name)
    if record is None:
        return b""
    array = record.get("vector")
    if array is None or array.stype != _STYPE or len(record) != 1:
        raise ValueError(f"{name} is no sealed vector")
    return bytes(array.data)
