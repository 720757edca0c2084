"""The rows of the experiment: one federated training each, which show X-rays in different ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulations.scenario import Scenario, read_scenario


@dataclass(frozen=True, slots=True)
class Row:
    """One way of showing X-rays to the network.

    ``encryption`` says in plain words whether it is any; ``changes`` are the settings in which its
    study differs from the plain one.
    """

    key: str
    name: str
    encryption: str
    changes: tuple[str, ...] = ()


_FIXED = "images.cipher=unsafe_fixed_randomness"
_HIGHEST = 'images.cipher_bytes="highest"'
_OWN = 'images.cipher_secret="site"'

ROWS = (
    Row(
        "a", "plain X-rays", "None: the X-rays never leave the hospital, and lie there as they are."
    ),
    Row(
        "b",
        "X-rays from the vault",
        "Yes. On the disk each X-ray is a Paillier ciphertext with fresh randomness; it is opened "
        "in memory for training.",
        ("simulation.vault=true",),
    ),
    Row(
        "c",
        "cipher images, fixed randomness",
        "No. A secret code book: equal pixels stay equal, so some bytes show the picture to the "
        "naked eye, and the public key alone turns whole ciphertexts into it.",
        (_FIXED,),
    ),
    Row(
        "d",
        "cipher images, fixed randomness, % 256",
        "No. A code book; a byte alone can no longer be decrypted by anyone.",
        ("images.cipher=unsafe_low_byte",),
    ),
    Row(
        "e",
        "cipher images, fresh randomness",
        "Yes, and therefore nothing can be learnt from them.",
        # small, because a pixel costs an encryption of its own
        ("images.cipher=fresh_randomness", "images.size=32"),
    ),
    Row(
        "f",
        "cipher images, ρ = 1",
        "No. The plain X-ray, multiplied by a public number.",
        ("images.cipher=unsafe_no_randomness", _HIGHEST),
    ),
)

MORE = (
    Row(
        "ch",
        "as (c), the ciphertext's highest bytes",
        "No. The same code book; these bytes are harder to read, until someone looks at others.",
        (_FIXED, _HIGHEST),
    ),
    Row(
        "g",
        "as (c), each site its own ρ",
        "No. A code book for each site, which the public key opens all the same.",
        (_FIXED, _OWN),
    ),
    Row(
        "h",
        "as (g), stem local to each site",
        "No. A code book for each site, which the public key opens all the same.",
        (_FIXED, _OWN, 'model.local_layers=["features.0"]'),
    ),
)


def row_scenario(row: Row, *, data: Path, quick: bool, changes: Sequence[str]) -> Scenario:
    """A row's scenario on some data: other changes, and then those that make it this row."""
    source = "reproduce-quick" if quick else "reproduce"
    return read_scenario(source, data=data, changes=[*changes, *row.changes])
