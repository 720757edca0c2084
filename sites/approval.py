"""What a hospital has approved: one study, and the code that is installed there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ppfl
import sites
from ppfl.crypto import PublicKey, read_private_key
from ppfl.errors import ApprovalError, KeyMismatchError, SettingsError, StudyMismatchError
from ppfl.settings import SiteFile, Study

_PACKAGES = (ppfl, sites)
_SUFFIXES = (".py", ".so")


def check_approval(site: SiteFile) -> None:
    """Check that the site's study and code are those which were approved, where any were.

    Raises:
        StudyMismatchError: the site's study file is not the one that was approved.
        ApprovalError: the installed code is not what was approved.
        SettingsError: the study file cannot be read.
    """
    if site.approved_study:
        fingerprint = Study.read(site.study).fingerprint()
        if fingerprint != site.approved_study:
            raise StudyMismatchError(
                f"{site.study}: has fingerprint {fingerprint[:16]}…, but site {site.name} "
                f"approved {site.approved_study[:16]}…",
                hint="a site serves the study it joined; another one needs a kit of its own",
            )
    if site.approved_code:
        digest = code_sha256()
        if digest != site.approved_code:
            raise ApprovalError(
                f"site {site.name} approved code {site.approved_code[:16]}…, installed is "
                f"{digest[:16]}…",
                hint="if the update is meant, run `ppfl site join` again with the same kit",
            )


def check_key(site: SiteFile) -> PublicKey:
    """The public half of the site's private key, after it was opened and found to be the study's.

    Raises:
        SettingsError: there is no key, or no passphrase, or the study file cannot be read.
        KeyAccessError: the file is another user's, or others can read it.
        KeyMismatchError: it is another study's key.
        KeyMaterialError: it is missing, damaged, or the passphrase does not open it.
    """
    if site.key is None:
        raise SettingsError(f"site {site.name} has no key", hint="join with a kit first")
    public = read_private_key(site.key, passphrase=site.passphrase()).public
    require_study_key(Study.read(site.study), public)
    return public


def require_study_key(study: Study, public: PublicKey) -> None:
    """Check that a key is the one that a study names.

    Raises:
        KeyMismatchError: it is not.
    """
    if public.fingerprint != study.encryption.key_fingerprint:
        raise KeyMismatchError(
            f"study {study.name} names key {study.encryption.key_fingerprint[:16]}…, "
            f"this key is {public.fingerprint[:16]}…",
            hint="compare the fingerprints with the other sites by telephone",
        )


def code_sha256() -> str:
    """SHA-256 over the modules of ppfl that run at a site, compiled ones too, and their names."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        folder = Path(str(package.__file__)).parent
        for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
            name = f"{package.__name__}/{path.relative_to(folder).as_posix()}"
            digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
