"""The search for canaries finds what is planted, or it would prove nothing."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from tests.attacks.canaries import Canary, find, find_counts
from tests.attacks.holdings import held_in

_PASSPHRASE = "correct-horse-battery-staple"
_PRIME = 2**521 - 1
_SUM = 8_112_963_841
_PARAMETERS = np.linspace(-0.317, 0.4242, 16, dtype=np.float32)


@pytest.mark.parametrize(
    ("canary", "plant"),
    [
        (_PASSPHRASE, lambda: f"passphrase = {_PASSPHRASE}".encode()),
        (_PASSPHRASE, lambda: base64.b64encode(f"x{_PASSPHRASE} and more".encode())),
        (_PASSPHRASE, lambda: base64.urlsafe_b64encode(f"xy{_PASSPHRASE}".encode())),
        (_PASSPHRASE, lambda: _PASSPHRASE.encode().hex().encode()),
        (_PASSPHRASE, lambda: _PASSPHRASE.encode("utf-16")),
        ("/srv/xrays/Müller", lambda: json.dumps({"error": "/srv/xrays/Müller: gone"}).encode()),
        ("/srv/xrays/a", lambda: PurePosixPath("/srv/xrays/a").as_uri().encode()),
        ("/srv/xrays/a", lambda: b"GET /?next=%2Fsrv%2Fxrays%2Fa"),
        (_PRIME, lambda: f"p is {_PRIME}".encode()),
        (_PRIME, lambda: f"{_PRIME:X}".encode()),
        (_PRIME, lambda: b"\0\1" + _PRIME.to_bytes(66, "big")),
        (_PRIME, lambda: base64.b64encode(b"\2" + _PRIME.to_bytes(66, "big"))),
        (_PRIME, lambda: _PRIME.to_bytes(80, "little").hex().encode()),
        (_SUM, lambda: json.dumps({"pixels": [1, _SUM]}).encode()),
        (_SUM, lambda: struct.pack("<qq", 4, _SUM)),
        (_SUM, lambda: np.array([4, _SUM], ">i8").tobytes()),
        (_PARAMETERS, lambda: b"\0" + _PARAMETERS.tobytes()),
        (_PARAMETERS, lambda: base64.b64encode(b"ab" + _PARAMETERS.tobytes())),
        (_PARAMETERS, lambda: _PARAMETERS.astype(">f8").tobytes()),
        (_PARAMETERS, lambda: _PARAMETERS.astype(np.float16).tobytes().hex().encode()),
        (_PARAMETERS, lambda: json.dumps(_PARAMETERS.tolist()).encode()),
        (_PARAMETERS, lambda: f"a bias of {_PARAMETERS[2]}".encode()),
    ],
)
def test_what_is_planted_is_found(canary: Canary, plant: Callable[[], bytes]) -> None:
    held = {"log": b"harmless\n" + plant() + b"\nharmless", "other": b"harmless " * 99}
    assert find({"it": canary}, held)
    assert {found.partition(",")[0] for found in find({"it": canary}, held)} == {"it is in log"}


def test_counts_are_numbers_and_not_parts_of_others() -> None:
    counts = {"east's images": 29, "west's images": 31}
    held = {
        "digests": b'{"sha256":"29ab31","time":"2026-11-29T10:31:29Z","seconds":29.5,"port":2931}',
        "binary": b'{"round": 7}\n\xff\xfe 29 31',
        "figures": b"at 29 % sure 31% right, after 29 s",
    }
    assert find_counts(counts, held) == []
    held["log"] = b'{"images": 29, "of": [30, 31]}'
    held["checkpoint"] = b'{"round": 29}\n\xff\xfe'
    assert find_counts(counts, held) == [
        "east's images is in log",
        "west's images is in log",
        "east's images is in checkpoint",
    ]


def test_what_lies_in_a_database_or_a_log_is_found(tmp_path: Path) -> None:
    """Also across the pages of a database, and in what is not yet written through to it."""
    page, _ = 4096, (tmp_path / "flower").mkdir()
    with closing(sqlite3.connect(tmp_path / "flower" / "state.db")) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE objects (id TEXT, content BLOB)")
        for number in range(0, len(_PASSPHRASE) * 4):  # one of them lies across two pages
            content = bytes(2 * page - number) + _PASSPHRASE.encode() + bytes(page)
            database.execute("INSERT INTO objects VALUES (?, ?)", (f"o{number}", content))
            database.commit()
        (tmp_path / "flower" / "superlink.log").write_text(f"a sum of {_SUM}")
        held = held_in(tmp_path)
    found = find({"passphrase": _PASSPHRASE, "sum": _SUM}, held)
    assert "passphrase is in flower/state.db, objects, as text" in found
    assert "sum is in flower/superlink.log, decimal" in found
    assert held["flower/state.db, objects"].count(_PASSPHRASE.encode()) == 4 * len(_PASSPHRASE)
