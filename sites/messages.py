"""How sealed vectors travel in Flower's messages, in both directions."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, RecordDict

SEALED = "sealed"
"""The record in which a site's own vector travels."""

_STYPE = "ppfl.sealed.v1"  # no other code can take these bytes for numbers and average them


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
