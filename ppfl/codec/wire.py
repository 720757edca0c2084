"""A sealed vector, and the bytes it travels as (docs/formats.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ppfl.errors import KeyMismatchError, MalformedMessageError

_MAGIC = b"PPFLSEAL"
_VERSION = 1
# magic, version, suite's name, key's fingerprint, values, summands, number of parts
_HEADER = struct.Struct("<8sH16s32sQIH")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a sealed vector must be before a byte of its parts is looked at."""

    suite: str
    fingerprint: str
    values: int
    part_bytes: tuple[int, ...]

    @property
    def wire_bytes(self) -> int:
        """Length of such a vector on the wire."""
        parts = len(self.part_bytes)
        return _HEADER.size + parts * _LENGTH.size + sum(self.part_bytes)


@dataclass(frozen=True, slots=True)
class SealedVector:
    """A vector that only the holders of a key can open.

    ``suite`` says how it is sealed and ``fingerprint`` under which key; ``values`` is how many
    integers it holds, ``summands`` of how many vectors it is the sum; ``parts`` are opaque.
    """

    suite: str
    fingerprint: str
    values: int
    summands: int
    parts: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The vector's bytes on the wire."""
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            self.suite.encode("ascii"),
            bytes.fromhex(self.fingerprint),
            self.values,
            self.summands,
            len(self.parts),
        )
        lengths = [_LENGTH.pack(len(part)) for part in self.parts]
        return b"".join([header, *lengths, *self.parts])

    @classmethod
    def from_bytes(cls, data: bytes, expected: Expected) -> SealedVector:
        """The vector in some bytes, if it is what it must be.

        Raises:
            MalformedMessageError: a length, the magic, the version, the suite or a count is not
                as expected; the message says which.
            KeyMismatchError: it is sealed under another key.
        """
        if len(data) != expected.wire_bytes:
            raise MalformedMessageError(
                f"a sealed vector of {len(data)} bytes, {expected.wire_bytes} needed"
            )
        magic, version, suite, fingerprint, values, summands, parts = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise MalformedMessageError("not a sealed vector of version 1")
        if suite.rstrip(b"\0") != expected.suite.encode("ascii"):
            raise MalformedMessageError(f"not sealed by the suite {expected.suite}")
        if fingerprint.hex() != expected.fingerprint:
            raise KeyMismatchError("a vector is sealed under another key than the study's")
        if values != expected.values or summands < 1 or parts != len(expected.part_bytes):
            raise MalformedMessageError("a sealed vector with other counts than the study's")
        offset = _HEADER.size
        for length in expected.part_bytes:
            if _LENGTH.unpack_from(data, offset)[0] != length:
                raise MalformedMessageError("a sealed vector with a part of another length")
            offset += _LENGTH.size
        cut = []
        for length in expected.part_bytes:
            cut.append(data[offset : offset + length])
            offset += length
        return cls(expected.suite, expected.fingerprint, values, summands, tuple(cut))
