"""The key ceremony: one private key, sealed to every site, and readable nowhere.

It is held at one site or by a third party whom all sites trust, never at the coordinator: for as
long as it lasts the private key is in this process's memory, and nowhere else. Python cannot wipe
that memory; it goes back to the system when the process ends.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ppfl.crypto import PrivateKey, PublicKey, read_public_key, write_public_key
from ppfl.crypto.sealing import SealedKey
from ppfl.crypto.textfile import new_key_folder, read_key_text, write_key_text
from ppfl.errors import KeyFileError, KeyMismatchError
from ppfl.federation.cards import Card, grouped, match_cards
from ppfl.settings import check_name

_TRANSCRIPT = "transcript.json"
_PACKAGES = ("ppfl", "cryptography", "gmpy2")


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was done in a ceremony, all of it public.

    ``cards`` maps the sites' names to their cards' fingerprints, ``files`` the names of the files
    that were made to SHA-256 of their bytes.
    """

    made: str
    custody: str
    fingerprint: str
    bits: int
    cards: Mapping[str, str]
    files: Mapping[str, str]
    software: Mapping[str, str]

    def to_text(self) -> str:
        """The transcript as it is read out by telephone and filed on paper."""
        lines = [
            "ppfl key ceremony, version 1",
            "",
            f"Held:    {self.made}",
            f"Custody: {self.custody}. Every site named here can open the key, and nobody else",
            f"Key:     {self.bits} bits",
            *_rows(self.fingerprint),
            "",
            "Each site compares the key's fingerprint, and its card's, by telephone.",
            "",
        ]
        for site, fingerprint in self.cards.items():
            lines += [f"Card of {site}", *_rows(fingerprint), ""]
        lines += ["Files (SHA-256)", *(f"  {each}  {name}" for name, each in self.files.items())]
        lines += ["", ", ".join(f"{name} {number}" for name, number in self.software.items()), ""]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What a ceremony handed out: the public key, and for each site its card and its sealed key."""

    public: PublicKey
    cards: Mapping[str, Card]
    sealed: Mapping[str, SealedKey]

    @classmethod
    def read(cls, folder: Path) -> Ceremony:
        """The files of a ceremony, each of them checked against the transcript.

        Raises:
            KeyFileError: a file is missing or not the one in the transcript.
            KeyMismatchError: a sealed key is not of this key, this site or this card.
            InvalidKeyError: the public key's numbers are no acceptable key.
        """
        path = folder / _TRANSCRIPT
        try:
            table = json.loads(read_key_text(path))
            files = dict(table["files"])
            names = [check_name(name, where=str(path)) for name in table["cards"]]
        except (ValueError, KeyError, TypeError):
            raise KeyFileError(f"{path}: no transcript of a ceremony, or damaged") from None
        for name in ("public.key", *(f"{s}{end}" for s in names for end in (".card", ".sealed"))):
            text = read_key_text(folder / name)
            if files.get(name) != hashlib.sha256(text.encode()).hexdigest():
                raise KeyFileError(
                    f"{folder / name}: is not the file that the ceremony made",
                    hint="it was changed or damaged on its way: ask for it anew",
                )
        public = read_public_key(folder / "public.key")
        cards = match_cards([Card.read(folder / f"{name}.card") for name in names])
        sealed = {}
        for name in names:
            if name not in cards:
                raise KeyMismatchError(f"{folder / name}.card: is not the card of site {name}")
            card = cards[name]
            place = folder / f"{name}.sealed"
            each = SealedKey.parse(read_key_text(place), where=str(place))
            if (each.site, each.card) != (name, card.fingerprint):
                raise KeyMismatchError(f"{place}: was not sealed to the card of site {name}")
            if each.fingerprint != public.fingerprint:
                raise KeyMismatchError(f"{place}: holds another key than {folder / 'public.key'}")
            sealed[name] = each
        return cls(public, cards, sealed)


def hold_ceremony(key: PrivateKey, cards: Sequence[Card], folder: Path) -> Transcript:
    """Seal a new key to every card, and write what may be handed out; the folder is made.

    The folder then holds `public.key`, for each site its card and `NAME.sealed`, and the
    transcript, as text and as JSON. None of these is secret.

    Raises:
        SettingsError: the cards are not those of a federation; see ``match_cards``.
        KeyMaterialError: nothing can be sealed to a card, or the folder is not empty.
    """
    matched = match_cards(cards)
    sealed = {
        name: SealedKey.seal(key, card.recipient, site=name, card=card.fingerprint)
        for name, card in matched.items()
    }
    with new_key_folder(folder):
        write_public_key(folder / "public.key", key.public)
        for name, card in matched.items():
            write_key_text(folder / f"{name}.card", card.to_text(), mode=0o644)
            write_key_text(folder / f"{name}.sealed", sealed[name].to_text(), mode=0o644)
        transcript = Transcript(
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            custody="shared",
            fingerprint=key.public.fingerprint,
            bits=key.public.bits,
            cards={name: card.fingerprint for name, card in matched.items()},
            files={
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.iterdir())
            },
            software={"Python": platform.python_version()} | {n: version(n) for n in _PACKAGES},
        )
        write_key_text(folder / "transcript.txt", transcript.to_text(), mode=0o644)
        text = json.dumps({"version": 1} | asdict(transcript), indent=2)
        write_key_text(folder / _TRANSCRIPT, text + "\n", mode=0o644)
    return transcript


def _rows(fingerprint: str) -> list[str]:
    """A fingerprint in two rows of eight groups."""
    return [f"  {grouped(fingerprint[start : start + 32])}" for start in (0, 32)]
