"""Looks for values that must not be somewhere, in every form in which a program might put them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

Canary = str | int | NDArray[np.float32]
"""A text, a number that no other is likely to equal, or numbers one of which would be too many."""

_DIGITS, _BYTES = 24, 12  # of a long number, so many in a row are enough


def find(canaries: Mapping[str, Canary], held: Mapping[str, bytes]) -> list[str]:
    """Which of the canaries are in which of the files, and in what form."""
    return [
        f"{what} is in {where}, {form}"
        for what, canary in canaries.items()
        for form, data in forms(canary)
        for where, content in held.items()
        if data in content
    ]


def find_counts(counts: Mapping[str, int], held: Mapping[str, bytes]) -> list[str]:
    """Which small counts stand by themselves among the numbers of the files that are text.

    Percentages and seconds are no counts, and some always equal one.
    """
    found = []
    for where, content in held.items():
        text = _text(content)
        numbers = set(map(int, re.findall(r"(?<![\w.:+-])\d+(?![\w.:+-]| ?(?:%|s\b))", text)))
        found += [f"{what} is in {where}" for what, count in counts.items() if count in numbers]
    return found


def _text(content: bytes) -> str:
    """A file's text; of one that is not text, its first line, in which a header may stand."""
    for part in (content, content.partition(b"\n")[0]):
        with suppress(UnicodeDecodeError):
            return part.decode()
    return ""


def forms(canary: Canary) -> Iterator[tuple[str, bytes]]:
    """All forms of one canary, each with its name."""
    if isinstance(canary, str):
        yield "as text", canary.encode()
        yield "as UTF-16", canary.encode("utf-16-le")
        yield "as JSON", json.dumps(canary)[1:-1].encode()
        yield "in a URL", quote(canary, safe="").encode()
        yield from _encoded("as text", canary.encode())
    elif isinstance(canary, int):
        # at least as an int64: four bytes of many megabytes of ciphertexts are found by chance
        digits, width = str(canary), max(8, (canary.bit_length() + 7) // 8)
        hexadecimal = f"{canary:x}"
        yield "decimal", digits[:_DIGITS].encode()
        yield "hexadecimal", hexadecimal[:_DIGITS].encode()
        yield "HEXADECIMAL", hexadecimal[:_DIGITS].upper().encode()
        big, little = canary.to_bytes(width, "big"), canary.to_bytes(width, "little")
        for name, data in (("big-endian", big), ("little-endian", little)):
            yield name, data[:_BYTES]
            yield from _encoded(name, data[: 2 * _BYTES])
    else:
        several = canary.reshape(-1)[:16]
        for kind in ("<f4", ">f4", "<f8", ">f8", "<f2"):
            data = several.astype(kind).tobytes()
            yield kind, data
            yield from _encoded(kind, data)
        for number in several[:4]:
            yield "decimal", str(number).encode()
            yield "decimal of a double", repr(float(number)).encode()


def _encoded(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    yield f"{name}, hexadecimal", data.hex().encode()
    yield f"{name}, HEXADECIMAL", data.hex().upper().encode()
    for before in range(3):  # base64 depends on what stands before, in three ways
        for kind, encode in (
            ("base64", base64.b64encode),
            ("base64url", base64.urlsafe_b64encode),
        ):
            text = encode(b"\0" * before + data)
            end = 4 * ((before + len(data)) // 3)  # what follows does not change these
            yield f"{name}, {kind}", text[4 * bool(before) : end]
