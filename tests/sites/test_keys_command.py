from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ppfl.crypto import PrivateKey
from ppfl.errors import KeyFileError, SettingsError
from ppfl.federation.cards import Card
from simulations.main import _app
from tests.deployed import Deployed


def _keys(*arguments: str | Path) -> Result:
    return CliRunner().invoke(_app, ["keys", *map(str, arguments)], catch_exceptions=False)


def test_every_kind_of_key_file_is_told_by_its_fingerprint(
    deployed: Deployed, full_key: PrivateKey
) -> None:
    deployed.join("alpha")
    alpha, fingerprint = deployed.site("alpha"), full_key.public.fingerprint
    card = Card.read(alpha / "alpha.card").fingerprint
    for path, told in (
        (alpha / "public.key", {"kind": "public key", "fingerprint": fingerprint, "bits": 3072}),
        (
            alpha / "private.key",
            {"kind": "private key, under a passphrase", "fingerprint": fingerprint},
        ),
        (
            deployed.ceremony / "alpha.sealed",
            {
                "kind": "private key, sealed to site alpha",
                "fingerprint": fingerprint,
                "card_fingerprint": card,
            },
        ),
        (alpha / "alpha.card", {"kind": "card of site alpha", "fingerprint": card}),
    ):
        assert json.loads(_keys("show", path, "--json").stdout) == told
    lines = _keys("show", alpha / "public.key").stdout.splitlines()
    assert lines[0] == "kind: public key"
    assert lines[1].replace(" ", "") == f"fingerprint:{fingerprint}"
    assert lines[1].split()[1] == fingerprint[:4]
    with pytest.raises(KeyFileError, match="is no key file and no card"):
        _keys("show", alpha / "supernode.key")


def test_cards_are_looked_at_before_a_key_is_made(deployed: Deployed) -> None:
    card = deployed.site("alpha") / "alpha.card"
    with pytest.raises(SettingsError, match="is there twice"):
        _keys("create", "--sites", f"{card},{card}", "--out", deployed.root / "new")
    with pytest.raises(KeyFileError, match=r"none\.card: no such key file"):
        _keys("create", "--sites", f"{card},none.card", "--out", deployed.root / "new")
    assert not (deployed.root / "new").exists()
