"""A hospital's identity: the keys that are made there and never leave it, and its card."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from ppfl.crypto.sealing import read_sealing_key, write_sealing_key
from ppfl.crypto.textfile import new_key_folder, read_key_text, require_private, write_key_text
from ppfl.errors import KeyFileError
from ppfl.federation.cards import Card
from ppfl.settings import check_name

NODE_KEY = "supernode.key"
_NODE_PUBLIC, _SEALING_KEY = "supernode.pub", "sealing.key"


def create_identity(site: str, folder: Path) -> Card:
    """The card of a new identity; its keys are written into the folder, which is made.

    Raises:
        SettingsError: the name is none.
        KeyFileError: the folder is not empty.
    """
    check_name(site, where="site init")
    with new_key_folder(folder):
        node, sealing = ec.generate_private_key(ec.SECP384R1()), X25519PrivateKey.generate()
        text = node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        write_key_text(folder / NODE_KEY, text, mode=0o600)
        write_sealing_key(folder / _SEALING_KEY, sealing)
        card = Card(site, _public_line(node), sealing.public_key().public_bytes_raw().hex())
        write_key_text(folder / _NODE_PUBLIC, card.node_key + "\n", mode=0o644)
        write_key_text(folder / f"{site}.card", card.to_text(), mode=0o644)
    return card


def read_identity(folder: Path) -> tuple[Card, X25519PrivateKey]:
    """The card in a site's folder, and the private key that opens what is sealed to it.

    Raises:
        KeyFileError: there is no card or more than one, a key is missing or damaged, others can
            read it, or it is not the card's.
    """
    cards = sorted(folder.glob("*.card"))
    if len(cards) != 1:
        raise KeyFileError(
            f"{folder}: holds {len(cards)} cards, and one is needed",
            hint="make this site's identity with `ppfl site init`",
        )
    card = Card.read(cards[0])
    node = folder / NODE_KEY
    require_private(node)
    try:
        key = load_ssh_private_key(read_key_text(node).encode(), password=None)
    except ValueError:
        raise KeyFileError(f"{node}: holds no private key, or is damaged") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or _public_line(key) != card.node_key:
        raise KeyFileError(f"{node}: is not the key of {cards[0]}")
    opener = read_sealing_key(folder / _SEALING_KEY)
    if opener.public_key().public_bytes_raw().hex() != card.sealing_key:
        raise KeyFileError(f"{folder / _SEALING_KEY}: is not the key of {cards[0]}")
    return card, opener


def _public_line(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
