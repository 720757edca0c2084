from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

from coordinator.folder import write_kits
from ppfl.crypto import PrivateKey, certificates, generate_key, read_private_key, write_private_key
from ppfl.crypto.sealing import SealedKey
from ppfl.crypto.signing import key_fingerprint
from ppfl.errors import (
    ApprovalError,
    CertificateError,
    DataError,
    KeyFileError,
    KeyMismatchError,
    KitError,
    PpflError,
    SettingsError,
    StudyMismatchError,
    WrongPassphraseError,
)
from ppfl.federation.cards import Card
from ppfl.federation.ceremony import Ceremony, hold_ceremony
from ppfl.federation.kit import Kit
from ppfl.settings import SiteFile, Study
from sites import approval
from sites.approval import check_approval
from sites.hospital import Hospital
from sites.identity import create_identity, read_identity
from sites.join import join
from tests.deployed import Deployed


def _altered(deployed: Deployed, **changes: Any) -> Path:
    """Alpha's kit with other content and a digest that fits it."""
    kit = Kit.read(deployed.kit("alpha")).model_copy(update=changes)
    path = deployed.root / "altered.kit"
    path.write_text(kit.to_toml(), encoding="utf-8")
    return path


def test_flower_takes_the_node_key(deployed: Deployed) -> None:
    """As flower-supernode and `flwr supernode register` load the two files."""
    folder = deployed.site("alpha")
    private = load_ssh_private_key((folder / "supernode.key").read_bytes(), None)
    public = load_ssh_public_key((folder / "supernode.pub").read_bytes())
    assert uses_nist_ec_curve(public)  # type: ignore[arg-type]
    assert public_key_to_bytes(public) == public_key_to_bytes(private.public_key())  # type: ignore[arg-type]
    card = Card.read(folder / "alpha.card")
    assert (folder / "supernode.pub").read_text() == card.node_key + "\n"


def test_a_joined_site_has_all_it_runs_with(deployed: Deployed, full_key: PrivateKey) -> None:
    joined = deployed.join("alpha")
    site = SiteFile.read(joined.site_file)
    assert site.key is not None
    assert read_private_key(site.key, passphrase=site.passphrase()) == full_key
    ceremony = Ceremony.read(deployed.ceremony)
    handed_out = write_kits(deployed.coordinator, ceremony, weights=None)
    assert joined.journal_key == handed_out.journal_key == key_fingerprint(site.journal_key)
    assert joined.journal_key.startswith("SHA256:")
    assert site.approved_study == Study.read(site.study).fingerprint()
    assert site.approved_study == Study.read(deployed.coordinator / "study.toml").fingerprint()
    assert site.coordinator is not None
    assert (site.coordinator.host, site.coordinator.port) == ("127.0.0.1", 9443)
    authority = deployed.coordinator / "tls" / "ca.crt"
    assert site.coordinator.ca_certificate.read_bytes() == authority.read_bytes()
    assert site.coordinator.node_key == deployed.site("alpha") / "supernode.key"
    for path in (site.key, site.passphrase_file, site.coordinator.node_key):
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    Hospital(site)


def test_joining_twice_changes_nothing_and_keeps_what_the_hospital_chose(
    deployed: Deployed,
) -> None:
    first = deployed.join("alpha")
    text = first.site_file.read_text().replace("threads = 0", "threads = 3")
    first.site_file.write_text(text.replace("node_port = 9501", "node_port = 9601"))
    before = {path: path.read_bytes() for path in deployed.site("alpha").iterdir()}
    second = deployed.join("alpha")
    assert (first.changed, second.changed) == (True, False)
    assert {path: path.read_bytes() for path in deployed.site("alpha").iterdir()} == before
    moved = deployed.root / "moved"
    (deployed.root / "xrays").rename(moved)
    third = join(deployed.kit("alpha"), deployed.site("alpha"), data=moved, passphrase_file=None)
    site = SiteFile.read(third.site_file)
    assert (third.changed, site.data, site.threads) == (True, moved, 3)
    assert site.coordinator is not None
    assert site.coordinator.node_port == 9601


def test_an_interrupted_join_goes_on(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    class _PowerCutError(Exception):
        pass

    def cut(*arguments: object) -> None:
        raise _PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut)
        with pytest.raises(_PowerCutError):
            deployed.join("alpha")
    assert not (deployed.site("alpha") / "site.toml").exists()
    assert deployed.join("alpha").changed


def test_joining_again_mends_a_file_of_the_kit_that_is_no_text(deployed: Deployed) -> None:
    deployed.join("alpha")
    study = deployed.site("alpha") / "study.toml"
    whole = study.read_bytes()
    study.write_bytes(b"# \xfc\n" + whole)
    deployed.join("alpha")
    assert study.read_bytes() == whole


def test_the_hospital_may_bring_its_own_passphrase(
    deployed: Deployed, full_key: PrivateKey
) -> None:
    secret = deployed.root / "secret"
    secret.write_text("correct horse\n")
    joined = deployed.join("alpha", secret=secret)
    assert SiteFile.read(joined.site_file).passphrase_file == secret
    assert not (deployed.site("alpha") / "passphrase").exists()
    path = deployed.site("alpha") / "private.key"
    assert read_private_key(path, passphrase="correct horse") == full_key
    secret.write_text("wrong")
    with pytest.raises(WrongPassphraseError):
        deployed.join("alpha")
    with pytest.raises(SettingsError, match="cannot be read"):
        deployed.join("beta", secret=deployed.root / "none")


def _other_key(deployed: Deployed) -> Path:
    """A kit whose key is of another ceremony with the same cards."""
    cards = [Card.read(deployed.ceremony / f"{name}.card") for name in ("alpha", "beta")]
    hold_ceremony(generate_key(2048), cards, deployed.root / "second")
    return _altered(
        deployed,
        sealed_key=(deployed.root / "second" / "alpha.sealed").read_text(),
        public_key=(deployed.root / "second" / "public.key").read_text(),
    )


def _other_sealed_key(deployed: Deployed) -> Path:
    _other_key(deployed)
    return _altered(deployed, sealed_key=(deployed.root / "second" / "alpha.sealed").read_text())


def _other_card(deployed: Deployed) -> Path:
    """The right kit, but alpha has made itself a new identity since."""
    shutil.rmtree(deployed.site("alpha"))
    create_identity("alpha", deployed.site("alpha"))
    return deployed.kit("alpha")


def _other_study(deployed: Deployed) -> Path:
    deployed.join("alpha")
    study = Study.read(deployed.coordinator / "study.toml").model_copy(update={"seed": 1})
    return _altered(deployed, study=study.to_toml())


def _study_in_the_clear(deployed: Deployed) -> Path:
    text = Kit.read(deployed.kit("alpha")).study.replace('"shared"', '"unsafe_plaintext"')
    return _altered(deployed, study=text)


def _second_authority(deployed: Deployed) -> Path:
    own = Kit.read(deployed.kit("alpha")).ca_certificate
    other = certificates.create_authority(days=30).certificate
    return _altered(deployed, ca_certificate=own + other)


def _spoilt_sealed_key(deployed: Deployed) -> Path:
    text = Kit.read(deployed.kit("alpha")).sealed_key
    sealed = SealedKey.parse(text, where="")
    spoilt = replace(sealed, sealed=sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1]))
    return _altered(deployed, sealed_key=spoilt.to_text())


def _other_authority(deployed: Deployed) -> Path:
    deployed.join("alpha")
    other = certificates.create_authority(days=30).certificate
    return _altered(deployed, ca_certificate=other, host="10.6.6.6")


def _study_without_alpha(deployed: Deployed) -> Path:
    text = Kit.read(deployed.kit("alpha")).study.replace("alpha", "delta")
    return _altered(deployed, study=text)


def _other_private_key(deployed: Deployed) -> Path:
    deployed.join("alpha")
    for name in ("site.toml", "passphrase", "private.key"):
        (deployed.site("alpha") / name).unlink()
    write_private_key(deployed.site("alpha") / "private.key", generate_key(2048), passphrase="old")
    (deployed.site("alpha") / "passphrase").write_text("old")
    return deployed.kit("alpha")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda d: d.kit("beta"), KitError, "is for site beta, .* the identity of alpha"),
        (_other_card, KitError, "its key is sealed to card .* this site's is"),
        (_other_key, KeyMismatchError, "its study names key .*, its public key is"),
        (_other_sealed_key, KeyMismatchError, "its study names key .*, its sealed key is"),
        (_other_study, StudyMismatchError, "this kit is of study tiny"),
        (_study_in_the_clear, SettingsError, "unsafe_plaintext encrypts nothing"),
        (_second_authority, CertificateError, "CA certificate: holds 2 certificates"),
        (_spoilt_sealed_key, KeyMismatchError, "its key does not open"),
        (_other_authority, CertificateError, "is not the authority in this kit"),
        (_study_without_alpha, KitError, "its study has no site alpha"),
        (_other_private_key, KeyMismatchError, "is another key than the one in the kit"),
        (lambda d: _altered(d, ca_certificate="x"), CertificateError, "CA certificate: holds no"),
        (lambda d: _altered(d, sealed_key="x"), KeyFileError, "its sealed key: does not begin"),
        (lambda d: _altered(d, public_key="x"), KeyFileError, "its public key: does not begin"),
        (lambda d: _altered(d, study="x"), SettingsError, "its study: not a readable TOML"),
    ],
)
def test_a_kit_that_does_not_fit_is_refused_and_changes_nothing(
    deployed: Deployed,
    change: Callable[[Deployed], Path],
    kind: type[PpflError],
    message: str,
) -> None:
    kit = change(deployed)
    before = {path: path.read_bytes() for path in deployed.site("alpha").rglob("*")}
    with pytest.raises(kind, match=message):
        deployed.join("alpha", kit=kit)
    assert {path: path.read_bytes() for path in deployed.site("alpha").rglob("*")} == before


def test_a_clock_that_is_off_is_named(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    now = certificates._now() - timedelta(days=2)
    monkeypatch.setattr(certificates, "_now", lambda: now)
    with pytest.raises(CertificateError, match="this machine's clock says") as caught:
        deployed.join("alpha")
    assert "clock of this machine is wrong" in caught.value.hint


def test_data_must_be_there(deployed: Deployed) -> None:
    with pytest.raises(DataError, match="no such folder or table"):
        join(
            deployed.kit("alpha"),
            deployed.site("alpha"),
            data=deployed.root / "none",
            passphrase_file=None,
        )


@pytest.mark.parametrize("name", ["supernode.key", "sealing.key"])
def test_an_identity_must_be_whole_and_private(deployed: Deployed, name: str) -> None:
    path = deployed.site("alpha") / name
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="others than its owner"):
        read_identity(deployed.site("alpha"))
    path.chmod(0o600)
    text = path.read_text()
    path.write_text((deployed.site("beta") / name).read_text())
    with pytest.raises(KeyFileError, match="is not the key of"):
        read_identity(deployed.site("alpha"))
    path.write_text(text[:60])
    with pytest.raises(KeyFileError, match="damaged"):
        read_identity(deployed.site("alpha"))
    path.unlink()
    with pytest.raises(KeyFileError, match="no such key file"):
        read_identity(deployed.site("alpha"))


def test_an_identity_has_one_card_and_is_never_overwritten(deployed: Deployed) -> None:
    with pytest.raises(KeyFileError, match="no key is ever overwritten"):
        create_identity("alpha", deployed.site("alpha"))
    with pytest.raises(SettingsError, match="no name for a site"):
        create_identity("../alpha", deployed.root / "new")
    (deployed.site("alpha") / "alpha.card").unlink()
    with pytest.raises(KeyFileError, match="holds 0 cards"):
        read_identity(deployed.site("alpha"))


def test_a_site_serves_only_the_study_and_the_code_it_approved(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = SiteFile.read(deployed.join("alpha").site_file)
    check_approval(site)
    text = site.study.read_text()
    site.study.write_text(text.replace("rounds = 10", "rounds = 11"))
    with pytest.raises(StudyMismatchError, match="but site alpha approved"):
        Hospital(site)
    site.study.write_text(text)
    monkeypatch.setattr(approval, "code_sha256", lambda: "0" * 64)
    with pytest.raises(ApprovalError, match=r"approved code .* installed is 0000"):
        Hospital(site)


def test_the_code_s_digest_depends_on_every_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    module, kernel = package / "inner" / "a.py", package / "k.so"
    (package / "__init__.py").touch()
    module.write_text("x = 1")
    kernel.write_bytes(b"1")

    class _Package:
        __name__, __file__ = "package", str(package / "__init__.py")

    monkeypatch.setattr(approval, "_PACKAGES", (_Package,))
    digests = [approval.code_sha256()]
    module.write_text("x = 2")
    digests.append(approval.code_sha256())
    kernel.write_bytes(b"2")
    digests.append(approval.code_sha256())
    module.rename(package / "inner" / "b.py")
    digests.append(approval.code_sha256())
    assert len(set(digests)) == 4
