"""Joining a federation: what a hospital does with the kit that it got from the coordinator."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ppfl.crypto import PrivateKey, PublicKey, read_private_key, write_private_key
from ppfl.crypto.certificates import certificate_fingerprint, check_authority
from ppfl.crypto.keyfiles import parse_public_key
from ppfl.crypto.sealing import SealedKey
from ppfl.crypto.signing import key_fingerprint
from ppfl.crypto.textfile import write_key_text
from ppfl.errors import (
    CertificateError,
    DataError,
    KeyMismatchError,
    KitError,
    StudyMismatchError,
)
from ppfl.federation.cards import Card
from ppfl.federation.kit import Kit, require_encryption
from ppfl.files import replace_text
from ppfl.settings import Connection, SiteFile, Study, read_passphrase, read_settings
from sites.approval import code_sha256
from sites.identity import NODE_KEY, read_identity

_SITE_FILE, _AUTHORITY, _PASSPHRASE = "site.toml", "ca.crt", "passphrase"
_PRIVATE_KEY = "private.key"


@dataclass(frozen=True, slots=True)
class Joined:
    """What a site has joined; the fingerprints are to be compared by telephone.

    ``site_file`` is where it is laid down; ``changed`` says whether this call changed anything.
    """

    site_file: Path
    site: str
    study: Study
    card: str
    key: str
    authority: str
    journal_key: str
    code: str
    changed: bool


def join(kit_file: Path, folder: Path, *, data: Path, passphrase_file: Path | None) -> Joined:
    """Join with a kit: check it, open the private key, and lay down what was approved.

    The folder holds the identity that ``create_identity`` made. Without a passphrase file one is
    made in it, mode 0600. The same kit may be joined with again, after an interruption, to name
    another data folder, or to approve an update of ppfl; keys are never overwritten.

    Raises:
        KitError: the kit is damaged, for another site, or for another card of this site.
        KeyMaterialError: the identity, the private key or the certificate cannot be used, the
            kit's key is not the study's or not the one that this site has, or the authority is not
            the one that this site trusts already.
        StudyMismatchError: the site has joined another study already.
        SettingsError: the study in the kit encrypts nothing or cannot be used, or the passphrase
            cannot.
        DataError: there is no such data.
    """
    kit = Kit.read(kit_file)
    card, opener = read_identity(folder)
    sealed, public, study = _check_kit(kit, kit_file, card)
    authority = check_authority(kit.ca_certificate, where=f"{kit_file}: its CA certificate")
    if not data.exists():
        raise DataError(f"{data}: no such folder or table of X-rays")
    trusted = authority.public_bytes(Encoding.PEM).decode()
    before = _joined_before(folder, study, trusted)
    key = sealed.open(opener)
    secret = _passphrase_file(passphrase_file, before, folder)
    _keep_key(key, folder / _PRIVATE_KEY, folder / secret)
    pinned = {
        "data": data.resolve(),
        "passphrase_file": secret,
        "approved_code": code_sha256(),
        "signing_key": Path(NODE_KEY),
        "journal_key": kit.journal_key,
        "kit_version": kit.ppfl,
    }
    site = _site_file(kit, study, before).model_copy(update=pinned)
    texts = {
        _AUTHORITY: trusted,
        "public.key": kit.public_key,
        "study.toml": kit.study,
        _SITE_FILE: site.to_toml(),  # last: a folder with a site file has joined
    }
    changed = [name for name, text in texts.items() if not _holds(folder / name, text)]
    for name in changed:
        replace_text(folder / name, texts[name])
    return Joined(
        site_file=folder / _SITE_FILE,
        site=card.site,
        study=study,
        card=card.fingerprint,
        key=public.fingerprint,
        authority=certificate_fingerprint(authority),
        journal_key=key_fingerprint(kit.journal_key),
        code=site.approved_code,
        changed=bool(changed),
    )


def _check_kit(kit: Kit, kit_file: Path, card: Card) -> tuple[SealedKey, PublicKey, Study]:
    """The parts of a kit, after they were found to belong together and to this site."""
    if kit.site != card.site:
        raise KitError(
            f"{kit_file}: is for site {kit.site}, and this folder is the identity of {card.site}",
            hint="ask the coordinator for this site's own kit, or name the right --dir",
        )
    sealed = SealedKey.parse(kit.sealed_key, where=f"{kit_file}: its sealed key")
    if (sealed.site, sealed.card) != (card.site, card.fingerprint):
        raise KitError(
            f"{kit_file}: its key is sealed to card {sealed.card[:16]}… of site {sealed.site}, "
            f"this site's is {card.fingerprint[:16]}…",
            hint="the ceremony was held with another card than this one",
        )
    public = parse_public_key(kit.public_key, where=f"{kit_file}: its public key")
    study = Study.parse(kit.study, where=f"{kit_file}: its study")
    require_encryption(study)
    if kit.site not in study.federation.sites:
        raise KitError(f"{kit_file}: its study has no site {kit.site}")
    wanted = study.encryption.key_fingerprint
    for what, found in (("public key", public.fingerprint), ("sealed key", sealed.fingerprint)):
        if found != wanted:
            raise KeyMismatchError(
                f"{kit_file}: its study names key {wanted[:16]}…, its {what} is {found[:16]}…",
                hint="it is a kit of another study's key: ask the coordinator for the right one",
            )
    return sealed, public, study


def _joined_before(folder: Path, study: Study, authority: str) -> SiteFile | None:
    """The site file of an earlier join with the same study and authority; paths as they stand."""
    path = folder / _SITE_FILE
    if not path.exists():
        return None
    before = read_settings(path, SiteFile)
    if before.approved_study != study.fingerprint():
        raise StudyMismatchError(
            f"{path}: approves study {before.approved_study[:16]}…, this kit is of study "
            f"{study.name}, {study.fingerprint()[:16]}…",
            hint=f"if the hospital agrees to the new one, move {path} away, then join",
        )
    if not _holds(folder / _AUTHORITY, authority):
        raise CertificateError(
            f"{folder / _AUTHORITY}: is not the authority in this kit",
            hint="someone may stand in for the coordinator: ask it by telephone; if it has a new "
            f"authority, move {path} away, then join",
        )
    return before


def _passphrase_file(given: Path | None, before: SiteFile | None, folder: Path) -> Path:
    """The file of the passphrase, relative to the site file; made where there is none."""
    if given is not None:
        return given.resolve()
    if before is not None and before.passphrase_file is not None:
        return before.passphrase_file
    if not (folder / _PASSPHRASE).exists():
        write_key_text(folder / _PASSPHRASE, secrets.token_urlsafe(24), mode=0o600)
    return Path(_PASSPHRASE)


def _keep_key(key: PrivateKey, path: Path, secret: Path) -> None:
    """Write the private key, unless this very key is there already."""
    passphrase = read_passphrase(secret, whose=str(path))
    if not path.exists():
        write_private_key(path, key, passphrase=passphrase)
    elif read_private_key(path, passphrase=passphrase) != key:
        raise KeyMismatchError(
            f"{path}: is another key than the one in the kit",
            hint="no key is ever overwritten: move it away if it is no longer needed",
        )


def _site_file(kit: Kit, study: Study, before: SiteFile | None) -> SiteFile:
    """The site file for a kit; what the hospital itself chose in an earlier one stays."""
    address = {"host": kit.host, "port": kit.port}
    if before is None or before.coordinator is None:
        return SiteFile(
            name=kit.site,
            data=Path(),
            key=Path(_PRIVATE_KEY),
            approved_study=study.fingerprint(),
            coordinator=Connection.model_validate(address),
        )
    return before.model_copy(update={"coordinator": before.coordinator.model_copy(update=address)})


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() == text.encode()
