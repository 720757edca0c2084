"""The coordinator's folder: made once, completed by the key ceremony, run from afterwards.

What is secret in it is for TLS and for signing; no key that opens an update is ever there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ppfl.crypto import read_public_key, write_public_key
from ppfl.crypto.certificates import (
    Issued,
    certificate_fingerprint,
    check_authority,
    check_server,
    create_authority,
    issue_server,
)
from ppfl.crypto.keyfiles import format_public_key
from ppfl.crypto.signing import create_signing_key, key_fingerprint, read_signing_key
from ppfl.crypto.textfile import new_key_folder, read_key_text, require_private, write_key_text
from ppfl.errors import (
    KeyMismatchError,
    KitError,
    ModelError,
    RunError,
    SettingsError,
    StudyMismatchError,
)
from ppfl.federation.cards import Card
from ppfl.federation.ceremony import Ceremony
from ppfl.federation.kit import Kit, require_encryption
from ppfl.federation.site_keys import SITE_KEYS, SiteKeys
from ppfl.files import replace_text
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.settings import CoordinatorFile, Study, check_settings

COORDINATOR_FILE = "coordinator.toml"
_AUTHORITY_DAYS = 3650


def create_folder(folder: Path, study: Study, *, host: str, port: int, days: int) -> None:
    """Make a coordinator's folder: its certificates, its settings, and a draft of the study.

    Raises:
        SettingsError: the host or port is none, or the study is not encrypted.
        KeyFileError: the folder is not empty.
    """
    require_encryption(study)
    settings = check_settings({"host": host, "port": port}, CoordinatorFile, where="coordinator")
    authority = create_authority(days=_AUTHORITY_DAYS)
    server = issue_server(authority, host=host, days=days)
    with new_key_folder(folder):
        for path, text, mode in (
            (settings.ca_key, authority.key, 0o600),
            (settings.ca_certificate, authority.certificate, 0o644),
            (settings.certificate_key, server.key, 0o600),
            (settings.certificate, server.certificate, 0o644),
        ):
            (folder / path).parent.mkdir(exist_ok=True)
            write_key_text(folder / path, text, mode=mode)
        create_signing_key(folder / settings.journal_key)
        (folder / settings.study).write_text(study.to_toml(), encoding="utf-8")
        (folder / COORDINATOR_FILE).write_text(settings.to_toml(), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Kits:
    """What was handed out: the final study, the kits' files, and the fingerprints to compare."""

    study: Study
    files: tuple[Path, ...]
    authority: str
    journal_key: str
    cards: Mapping[str, str]


def write_kits(folder: Path, ceremony: Ceremony, *, weights: Path | None) -> Kits:
    """Complete the study with the ceremony's key and the starting parameters; write the kits.

    The same call gives the same files again, also after an update of ppfl; a kit that was handed
    out is never replaced by another.

    Raises:
        SettingsError: the settings or the study cannot be used, or the ceremony was of other sites.
        KeyMaterialError: the study has another key already, or the certificates cannot be used.
        KitError: kits of another study are there already.
        ModelError: the starting parameters cannot be made, or are not the study's.
    """
    settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
    draft = Study.read(settings.study)
    require_encryption(draft)
    _check_sites(draft, ceremony)
    _check_key(draft, settings, ceremony)
    authority = check_server(
        settings.certificate,
        settings.certificate_key,
        authority=settings.ca_certificate,
        host=settings.host,
    )
    study = _complete(draft, ceremony, start=_start(draft, settings.start, weights=weights))
    kits = _kits(study, settings, ceremony)
    for path, text in kits.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise KitError(
                f"{path}: is another kit, perhaps handed out already",
                hint=f"if the sites agreed to the change, move {path.parent} away",
            )
    if not settings.public_key.exists():
        write_public_key(settings.public_key, ceremony.public)
    for place in (settings.cards, settings.kits):
        place.mkdir(exist_ok=True)
    for site, card in ceremony.cards.items():
        replace_text(settings.cards / f"{site}.card", card.to_text())
    for path, text in kits.items():
        replace_text(path, text)
    replace_text(settings.study, study.to_toml())
    return Kits(
        study=study,
        files=tuple(kits),
        authority=certificate_fingerprint(authority),
        journal_key=key_fingerprint(read_signing_key(settings.journal_key).public),
        cards={site: card.fingerprint for site, card in ceremony.cards.items()},
    )


def renew_certificate(folder: Path, *, days: int) -> None:
    """Issue the coordinator's certificate anew, for the host in its settings; the key stays.

    The sites need nothing new, because they trust the authority.

    Raises:
        SettingsError: the settings cannot be used.
        KeyMaterialError: the authority has expired, or a file of it cannot be used.
    """
    settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
    for path in (settings.ca_key, settings.certificate_key):
        require_private(path)
    authority = Issued(read_key_text(settings.ca_certificate), read_key_text(settings.ca_key))
    check_authority(authority.certificate, where=str(settings.ca_certificate))
    key = read_key_text(settings.certificate_key)
    server = issue_server(authority, host=settings.host, days=days, key=key)
    replace_text(settings.certificate, server.certificate)


def check_study(settings: CoordinatorFile) -> Study:
    """The study, complete, after it was found to fit the key and the run's folder.

    Raises:
        RunError: it is still a draft.
        StudyMismatchError: the run's folder holds a run of another study.
        KeyMaterialError: the public key is missing or not the study's.
        SettingsError: the study cannot be read, or is not encrypted.
    """
    study = Study.read(settings.study)
    require_encryption(study)
    wanted = study.encryption.key_fingerprint
    if not wanted or not study.model.start_sha256:
        raise RunError(
            f"{settings.study}: is still a draft", hint="complete it with `ppfl coordinator kit`"
        )
    if read_public_key(settings.public_key).fingerprint != wanted:
        raise KeyMismatchError(
            f"{settings.public_key}: is not the key of {settings.study}",
            hint=f"the ceremony's transcript.txt names the right one: ppfl keys show "
            f"{settings.public_key}",
        )
    copy = settings.run / "study.toml"
    if copy.exists() and Study.read(copy).fingerprint() != study.fingerprint():
        raise StudyMismatchError(
            f"{settings.run}: holds a run of another study than {settings.study}",
            hint="name another run folder in coordinator.toml",
        )
    return study


def check_start(settings: CoordinatorFile, study: Study) -> None:
    """Check the starting parameters.

    Raises:
        ModelError: their file is missing or damaged, or they are not those that the study names.
    """
    found, wanted = parameters_sha256(load_model(settings.start)[0]), study.model.start_sha256
    if found != wanted:
        raise ModelError(
            f"{settings.start}: its parameters are {found[:16]}…, the study names {wanted[:16]}…",
            hint="ppfl coordinator kit",
        )


def prepare_run(settings: CoordinatorFile) -> Path:
    """The run's folder, with the study, the public key and the starting parameters in it.

    It may be there already, from the same study: a run then goes on.

    Raises:
        PpflError: as ``check_study`` does.
        KeyMaterialError: the key that signs the run's record cannot be used.
    """
    check_start(settings, check_study(settings))
    read_signing_key(settings.journal_key)
    settings.run.mkdir(exist_ok=True, mode=0o700)
    SiteKeys(keys=node_keys(settings)).write(settings.run / SITE_KEYS)
    for name, source in {
        "public.key": settings.public_key,
        "start.safetensors": settings.start,
        "study.toml": settings.study,  # last: a folder with a study is a run that can go on
    }.items():
        part = settings.run / f".{name}.part"
        shutil.copyfile(source, part)
        os.replace(part, settings.run / name)
    return settings.run


def node_keys(settings: CoordinatorFile) -> dict[str, str]:
    """The lines of OpenSSH by which Flower knows the sites, by their names, from their cards.

    Raises:
        KeyFileError: a site of the study has no card here, or a damaged one.
        KeyMismatchError: a card is another site's.
    """
    found = {}
    for site in Study.read(settings.study).federation.sites:
        card = Card.read(settings.cards / f"{site}.card")
        if card.site != site:
            raise KeyMismatchError(f"{settings.cards / site}.card: is the card of {card.site}")
        found[site] = card.node_key
    return found


def _check_sites(draft: Study, ceremony: Ceremony) -> None:
    ours, theirs = set(draft.federation.sites), set(ceremony.cards)
    if ours != theirs:
        parts = {"without a card": ours - theirs, "not in the study": theirs - ours}
        found = "; ".join(f"{what}: {', '.join(sorted(n))}" for what, n in parts.items() if n)
        raise SettingsError(
            f"study {draft.name} and the ceremony are not of the same sites ({found})",
            hint="a key is made for all sites of a study at once",
        )


def _check_key(draft: Study, settings: CoordinatorFile, ceremony: Ceremony) -> None:
    new = ceremony.public.fingerprint
    found = {settings.study: draft.encryption.key_fingerprint}
    if settings.public_key.exists():
        found[settings.public_key] = read_public_key(settings.public_key).fingerprint
    for path, old in found.items():
        if old and old != new:
            raise KeyMismatchError(
                f"{path}: has key {old[:16]}… already, the ceremony made {new[:16]}…",
                hint="another key needs a new folder: ppfl coordinator init",
            )


def _start(draft: Study, path: Path, *, weights: Path | None) -> str:
    """The digest of the starting parameters, made here if the study does not name them yet."""
    named = draft.model.start_sha256
    if not named:
        from simulations.prepare import write_start  # torch, which `run` and `status` do without

        return write_start(draft, path, weights=weights)
    found = parameters_sha256(load_model(path)[0])
    if found != named:
        raise ModelError(
            f"{path}: its parameters are {found[:16]}…, the study names {named[:16]}…",
            hint="empty start_sha256 in the study to have them made anew",
        )
    return found


def _complete(draft: Study, ceremony: Ceremony, *, start: str) -> Study:
    """The final study: the draft with the two digests that it lacked."""
    key = {"key_fingerprint": ceremony.public.fingerprint}
    return draft.model_copy(
        update={
            "encryption": draft.encryption.model_copy(update=key),
            "model": draft.model.model_copy(update={"start_sha256": start}),
        }
    )


def _kits(study: Study, settings: CoordinatorFile, ceremony: Ceremony) -> dict[Path, str]:
    """The kits' texts, by the files they go to."""
    shared = {
        "host": settings.host,
        "port": settings.port,
        "ca_certificate": read_key_text(settings.ca_certificate),
        "journal_key": read_signing_key(settings.journal_key).public,
        "study": study.to_toml(),
        "public_key": format_public_key(ceremony.public),
    }
    found = {}
    for site in study.federation.sites:
        path = settings.kits / f"{site}.kit"
        made_by = Kit.read(path).ppfl if path.exists() else version("ppfl")
        own = {"ppfl": made_by, "site": site, "sealed_key": ceremony.sealed[site].to_text()}
        found[path] = Kit.model_validate(shared | own).to_toml()
    return found
