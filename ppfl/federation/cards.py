"""A site's card: the public half of its identity, and what the others compare by telephone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from ppfl.crypto.textfile import format_fields, parse_fields, read_key_text
from ppfl.errors import DuplicateSiteError, KeyFileError, SettingsError
from ppfl.settings import check_name

CARD_MAGIC = "ppfl site card, version 1"
_FIELDS = ("site", "fingerprint", "node-key", "sealing-key")


@dataclass(frozen=True, slots=True)
class Card:
    """The public keys of one site.

    ``node_key`` is a line of OpenSSH, P-384, by which Flower knows the site's SuperNode;
    ``sealing_key`` is an X25519 key, 64 hexadecimal digits, to which the federation's private key
    is sealed.
    """

    site: str
    node_key: str
    sealing_key: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the card, 64 hexadecimal digits."""
        text = f"ppfl-site-card-v1\n{self.site}\n{self.node_key}\n{self.sealing_key}\n"
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @property
    def recipient(self) -> X25519PublicKey:
        """The sealing key, as something to seal to."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.sealing_key))

    def to_text(self) -> str:
        """The text of a card file."""
        return format_fields(
            CARD_MAGIC,
            {
                "site": self.site,
                "fingerprint": self.fingerprint,
                "node-key": self.node_key,
                "sealing-key": self.sealing_key,
            },
        )

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """The card in the text of such a file; ``where`` begins error messages.

        Raises:
            KeyFileError: the text is of another kind, a key in it is damaged, or its fingerprint
                is not that of its keys.
            SettingsError: the site's name is none.
        """
        fields = parse_fields(text, CARD_MAGIC, _FIELDS, where=where)
        card = cls(fields["site"], fields["node-key"], fields["sealing-key"])
        if not re.fullmatch("[0-9a-f]{64}", card.sealing_key) or not _is_node_key(card.node_key):
            raise KeyFileError(f"{where}: a key in it is damaged")
        if card.fingerprint != fields["fingerprint"]:
            raise KeyFileError(f"{where}: its fingerprint is not that of its keys")
        check_name(card.site, where=where)
        return card

    @classmethod
    def read(cls, path: Path) -> Self:
        """The card in a file; raises as ``parse`` does, and if there is no such file."""
        return cls.parse(read_key_text(path), where=str(path))


def match_cards(cards: Sequence[Card]) -> Mapping[str, Card]:
    """The cards by their sites' names.

    Raises:
        DuplicateSiteError: two sites have one name.
        SettingsError: there are fewer than two, a card is there twice, or two have a key in common.
    """
    if len(cards) < 2:
        raise SettingsError(f"{len(cards)} card, but a federation has at least two sites")
    for position, card in enumerate(cards):
        for other in cards[:position]:
            if card == other:
                raise SettingsError(f"the card of site {card.site} is there twice")
            if card.site == other.site:
                raise DuplicateSiteError(
                    f"two sites have the name {card.site}",
                    hint="one of them must make a new identity under another name",
                )
            if card.sealing_key == other.sealing_key or card.node_key == other.node_key:
                raise SettingsError(
                    f"the cards of {other.site} and {card.site} hold one and the same key",
                    hint="each site makes its own identity with `ppfl site init`",
                )
    return {card.site: card for card in cards}


def grouped(fingerprint: str) -> str:
    """A fingerprint in groups of four digits, to be read out.

    >>> grouped("0123456789ab")
    '0123 4567 89ab'
    """
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def _is_node_key(text: str) -> bool:
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, TypeError):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) == text.encode()
