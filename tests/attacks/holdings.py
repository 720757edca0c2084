"""What a coordinator holds, and what of a site must not be in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ppfl.crypto import read_private_key
from ppfl.learning.files import load_model
from ppfl.learning.sources import read_records
from ppfl.settings import SiteFile
from tests.attacks.canaries import Canary


def held_in(folder: Path) -> dict[str, bytes]:
    """All files of a folder, and with each database its rows: its pages cut long values up."""
    held = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name in [name for name in held if name.endswith(".db")]:
        held |= {f"{name}, {table}": rows for table, rows in _tables(folder / name)}
    return held


def _tables(path: Path) -> Iterator[tuple[str, bytes]]:
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - its own names
            cells = (cell for row in rows for cell in row)
            yield (
                table,
                b"\n".join(
                    cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells
                ),
            )


def site_secrets(site: SiteFile) -> dict[str, Canary]:
    """Its key, passphrase, paths, patients and, if it keeps one, the model."""
    assert site.key is not None
    assert site.signing_key is not None
    key = read_private_key(site.key, passphrase=site.passphrase())
    signing = "".join(site.signing_key.read_text().splitlines()[1:-1])
    found: dict[str, Canary] = {
        "passphrase": site.passphrase(),
        "P": key.P,
        "Q": key.Q,
        "p": key.p,
        "q": key.q,
        "data": str(site.data),
        "key file": str(site.key),
        "work folder": str(site.work),
        "signing key": signing[-100:],
    }
    if (site.work / "model.safetensors").exists():
        shared = load_model(site.work / "model.safetensors")[0]
        found["model"] = max(shared.values(), key=lambda array: array.size)
    for record in read_records(site.data):
        found |= {
            f"file {record.path.stem}": record.path.stem,
            f"patient {record.group}": record.group,
        }
    return found
