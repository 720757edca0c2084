from __future__ import annotations

import json
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from ppfl.crypto import PrivateKey, read_public_key
from ppfl.errors import KeyFileError, KeyMismatchError, KitError, SettingsError
from ppfl.federation.cards import Card, match_cards
from ppfl.federation.ceremony import Ceremony, hold_ceremony
from ppfl.federation.kit import Kit
from sites.identity import create_identity, read_identity


@pytest.fixture
def cards(tmp_path: Path) -> list[Card]:
    return [create_identity(name, tmp_path / name) for name in ("alpha", "beta")]


def test_every_site_opens_the_one_key_and_the_transcript_names_everything(
    tmp_path: Path, cards: list[Card], full_key: PrivateKey
) -> None:
    transcript = hold_ceremony(full_key, cards, tmp_path / "ceremony")
    ceremony = Ceremony.read(tmp_path / "ceremony")
    assert ceremony.public == full_key.public == read_public_key(tmp_path / "ceremony/public.key")
    for name in ("alpha", "beta"):
        card, opener = read_identity(tmp_path / name)
        assert ceremony.cards[name] == card
        assert ceremony.sealed[name].open(opener) == full_key
        assert transcript.cards[name] == card.fingerprint
    told = json.loads((tmp_path / "ceremony" / "transcript.json").read_text())
    assert set(told["files"]) == {
        *("alpha.card", "alpha.sealed", "beta.card", "beta.sealed", "public.key")
    }
    digits = (tmp_path / "ceremony" / "transcript.txt").read_text().replace(" ", "")
    for fingerprint in (full_key.public.fingerprint, *(card.fingerprint for card in cards)):
        assert fingerprint[:32] in digits
        assert fingerprint[32:] in digits
    assert stat.S_IMODE((tmp_path / "ceremony").stat().st_mode) == 0o700
    with pytest.raises(KeyFileError, match="no key is ever overwritten"):
        hold_ceremony(full_key, cards, tmp_path / "ceremony")


def test_cards_that_make_no_federation_are_refused(tmp_path: Path, cards: list[Card]) -> None:
    alpha, beta = cards
    again = create_identity("alpha", tmp_path / "again")
    for wrong, message in (
        ([alpha], "at least two sites"),
        ([alpha, beta, alpha], "card of site alpha is there twice"),
        ([alpha, beta, again], "two sites have the name alpha"),
        ([alpha, replace(alpha, site="gamma")], "alpha and gamma hold one and the same key"),
    ):
        with pytest.raises(SettingsError, match=message):
            match_cards(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sealing_key": "AB" * 32}, "a key in it is damaged"),
        ({"node_key": "ssh-ed25519 AAAA"}, "a key in it is damaged"),
        ({"node_key": "ecdsa-sha2-nistp384 comment"}, "a key in it is damaged"),
        ({"site": "../alpha"}, "no name for a site"),
    ],
)
def test_damaged_cards_are_named(cards: list[Card], changes: dict[str, str], message: str) -> None:
    text = replace(cards[0], **changes).to_text()
    with pytest.raises((KeyFileError, SettingsError), match=f"alpha.card: .*{message}"):
        Card.parse(text, where="alpha.card")


def test_a_card_under_another_name_has_another_fingerprint(cards: list[Card]) -> None:
    text = cards[0].to_text().replace("site: alpha", "site: gamma")
    with pytest.raises(KeyFileError, match="fingerprint is not that of its keys"):
        Card.parse(text, where="gamma.card")


def test_a_file_changed_after_the_ceremony_is_found(
    tmp_path: Path, cards: list[Card], full_key: PrivateKey
) -> None:
    folder = tmp_path / "ceremony"
    hold_ceremony(full_key, cards, folder)
    path = folder / "beta.sealed"
    text = path.read_text()
    path.write_text(text.replace("sealed: ", "sealed: A"))
    with pytest.raises(KeyFileError, match=r"beta\.sealed: is not the file"):
        Ceremony.read(folder)
    path.unlink()
    with pytest.raises(KeyFileError, match=r"beta\.sealed: no such key file"):
        Ceremony.read(folder)
    transcript = folder / "transcript.json"
    transcript.write_text(transcript.read_text()[:50])
    with pytest.raises(KeyFileError, match="no transcript of a ceremony"):
        Ceremony.read(folder)


def _retell(folder: Path, name: str, text: str) -> None:
    """Change a file and the transcript with it: damage is excluded, a lie is not."""
    (folder / name).write_text(text)
    path = folder / "transcript.json"
    told = json.loads(path.read_text())
    told["files"][name] = sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(told))


def test_files_of_two_ceremonies_do_not_mix(
    tmp_path: Path, cards: list[Card], full_key: PrivateKey, unsafe_key: PrivateKey
) -> None:
    folder, other = tmp_path / "ceremony", tmp_path / "other"
    hold_ceremony(full_key, cards, folder)
    hold_ceremony(unsafe_key, cards, other)
    good = (folder / "beta.sealed").read_text()
    _retell(folder, "beta.sealed", (other / "beta.sealed").read_text())
    with pytest.raises(KeyMismatchError, match="holds another key than"):
        Ceremony.read(folder)
    _retell(folder, "beta.sealed", (folder / "alpha.sealed").read_text())
    with pytest.raises(KeyMismatchError, match="was not sealed to the card of site beta"):
        Ceremony.read(folder)
    _retell(folder, "beta.sealed", good)
    _retell(folder, "beta.card", create_identity("gamma", tmp_path / "gamma").to_text())
    with pytest.raises(KeyMismatchError, match=r"beta\.card: is not the card of site beta"):
        Ceremony.read(folder)


def test_a_kit_comes_back_and_shows_damage(tmp_path: Path) -> None:
    kit = Kit(
        ppfl="0.1.0",
        site="alpha",
        host="ppfl.example.org",
        port=9443,
        ca_certificate="-----BEGIN\nx\n",
        journal_key="ssh-ed25519 A",
        study='name = "a \\ ü"\n\n\t"""\n',
        public_key="k",
        sealed_key="s\n  s\n",
    )
    path = tmp_path / "alpha.kit"
    path.write_text(kit.to_toml(), encoding="utf-8")
    assert Kit.read(path).model_copy(update={"sha256": ""}) == kit
    assert Kit.read(path).to_toml() == kit.to_toml()
    path.write_text(kit.to_toml().replace("9443", "9444"), encoding="utf-8")
    with pytest.raises(KitError, match="damaged on its way"):
        Kit.read(path)
    path.write_text(kit.to_toml()[:100], encoding="utf-8")
    with pytest.raises(KitError, match="not a readable TOML file"):
        Kit.read(path)
    with pytest.raises(KitError, match="no such file"):
        Kit.read(tmp_path / "none")
