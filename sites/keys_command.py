"""`ppfl keys`: the key ceremony, and a look at any key file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ppfl.crypto import generate_key
from ppfl.crypto.keyfiles import PRIVATE_MAGIC, PUBLIC_MAGIC, parse_private_fields, parse_public_key
from ppfl.crypto.sealing import SEALED_MAGIC, SealedKey
from ppfl.crypto.textfile import read_key_text
from ppfl.errors import KeyFileError, SettingsError
from ppfl.federation.cards import CARD_MAGIC, Card, match_cards
from ppfl.federation.ceremony import hold_ceremony
from sites.printing import AsJson, print_result


def create_keys(
    sites: Annotated[str, typer.Option(help="the sites' cards, with commas")],
    out: Annotated[Path, typer.Option(help="a folder that does not exist yet")],
    custody: Annotated[str, typer.Option(help="who can open sums: shared")] = "shared",
    bits: Annotated[int, typer.Option(help="bits of the key")] = 3072,
    as_json: AsJson = False,
) -> None:
    """Hold the key ceremony: one key, sealed to every site. Never at the coordinator.

    Example: ppfl keys create --custody shared --sites a.card,b.card,c.card --out ceremony
    """
    if custody != "shared":
        raise SettingsError(f"--custody {custody}: must be shared")
    cards = [Card.read(Path(path.strip())) for path in sites.split(",")]
    match_cards(cards)  # before a key is made that nobody gets
    transcript = hold_ceremony(generate_key(bits), cards, out)
    typer.echo(f"Hand {out} to the coordinator; nothing in it is secret", err=True)
    result = {
        "key_fingerprint": transcript.fingerprint,
        "bits": transcript.bits,
        "card": dict(transcript.cards),
        "transcript": str(out / "transcript.txt"),
    }
    print_result(result, as_json=as_json)


def show_key(
    file: Annotated[Path, typer.Argument(help="a key, a sealed key or a card")],
    as_json: AsJson = False,
) -> None:
    """Say what a key file is, and its fingerprint.

    Example: ppfl keys show public.key
    """
    print_result(_describe(file), as_json=as_json)


def _describe(file: Path) -> dict[str, Any]:
    text, where = read_key_text(file), str(file)
    magic = text.partition("\n")[0]
    if magic == PUBLIC_MAGIC:
        public = parse_public_key(text, where=where)
        return {"kind": "public key", "fingerprint": public.fingerprint, "bits": public.bits}
    if magic == PRIVATE_MAGIC:
        fields = parse_private_fields(text, where=where)
        return {"kind": "private key, under a passphrase", "fingerprint": fields["fingerprint"]}
    if magic == SEALED_MAGIC:
        sealed = SealedKey.parse(text, where=where)
        return {
            "kind": f"private key, sealed to site {sealed.site}",
            "fingerprint": sealed.fingerprint,
            "card_fingerprint": sealed.card,
        }
    if magic == CARD_MAGIC:
        card = Card.parse(text, where=where)
        return {"kind": f"card of site {card.site}", "fingerprint": card.fingerprint}
    raise KeyFileError(f"{file}: is no key file and no card of ppfl")
