"""`ppfl doctor --site`: all that can keep a hospital from taking part, before the first round.

Nothing here names a file of the data folder: what it prints may be sent to whoever helps.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from ppfl.crypto import read_public_key
from ppfl.crypto.certificates import certificate_fingerprint, check_authority
from ppfl.crypto.textfile import read_key_text, require_private
from ppfl.errors import DataError, KeyAccessError, PpflError
from ppfl.federation.cards import grouped
from ppfl.findings import Finding, examine_one
from ppfl.learning.check import check_folder
from ppfl.learning.sources import read_records
from ppfl.running import read_running, require_free_port
from ppfl.settings import Connection, SiteFile, Study
from ppfl.xray import vault
from ppfl.xray.vault_file import VaultKey
from sites.approval import check_approval, check_key
from sites.identity import read_identity
from sites.needs import needs_of
from sites.reach import Reached, check_clock, check_registered, reach, tell_clock
from sites.traffic import Traffic

_SOON_DAYS = 30
_DRIFT_S = 2.0  # a clock that is off by more will be off by more still
_MEGABYTE, _GIGABYTE = 1e6, 1e9


def examine_site(folder: Path) -> Iterator[Finding]:
    """What is well and what is not in a site's folder, with its data, and on its way out."""
    try:
        site = SiteFile.read(folder / "site.toml")
        study = Study.read(site.study)
        public = read_public_key(folder / "public.key")
        connection = site.connection()
    except PpflError as error:
        advice = "ppfl site join makes these files from the kit"
        yield Finding.of_error("settings", error, advice=advice)
        return
    yield from examine_one("version", lambda: _version(site))
    yield from examine_one("study", lambda: _study(site, study))
    yield from examine_one("identity", lambda: _identity(folder))
    yield from examine_one("key", lambda: grouped(check_key(site).fingerprint))
    yield from examine_one("passphrase", lambda: _passphrase(site))
    yield from examine_one("authority", lambda: _authority(connection))
    yield from _coordinator(connection)
    yield from examine_one("port", lambda: _port(site.work / "flower", connection.node_port))
    yield from examine_one("data", lambda: _data(site, study, VaultKey(public)))
    try:
        needs = needs_of(study, public, engine=site.engine, images=_images(site, study))
    except PpflError as error:
        yield Finding.of_error("engine", error)
        return
    yield tell_traffic(study, needs.traffic)
    yield tell_memory(needs.site_memory)
    yield tell_disk(needs.site_disk, site.work)


def tell_days(what: str, expires: datetime, *, renew: str) -> Finding:
    """How long a certificate is still valid; ``renew`` is what to do when it is not for long."""
    days = (expires - datetime.now(UTC)).days
    found = f"valid for {days} more days, until {expires:%Y-%m-%d}"
    return Finding(what, "ok", found) if days > _SOON_DAYS else Finding(what, "note", found, renew)


def tell_traffic(study: Study, traffic: Traffic) -> Finding:
    """What the study will send over a site's line."""
    up, down, all_up, all_down = (
        f"{count / _MEGABYTE:,.1f} MB"
        for count in (traffic.round_up, traffic.round_down, traffic.all_up, traffic.all_down)
    )
    found = f"{up} up and {down} down in a round; {all_up} up and {all_down} down in all "
    return Finding("line", "ok", f"{found}{study.training.rounds} rounds, for each site")


def tell_memory(needed: int) -> Finding:
    """Whether so many bytes of memory are free."""
    free = psutil.virtual_memory().available
    found = f"{free / _GIGABYTE:.1f} GB are free, about {needed / _GIGABYTE:.1f} GB are needed"
    if free < needed:
        return Finding("memory", "wrong", found, "end other programs, or use a larger machine")
    return Finding("memory", "ok", found)


def tell_disk(needed: int, folder: Path) -> Finding:
    """Whether so many bytes are free where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / _GIGABYTE:.1f} GB are free for {folder}, "
    found += f"about {needed / _GIGABYTE:.1f} GB are needed"
    if free < needed:
        advice = "make room, or name a folder on another disk in the settings"
        return Finding("disk", "wrong", found, advice, "disk-full")
    return Finding("disk", "ok", found)


def _version(site: SiteFile) -> Finding | None:
    """Whether this is the ppfl that the coordinator had when it wrote the kit."""
    ours, theirs = version("ppfl"), site.kit_version
    if theirs in (ours, ""):  # a site file of before has none
        return Finding("version", "ok", f"ppfl {ours}, as the kit's") if theirs else None
    advice = "install the coordinator's version, or ask whether it was updated; then join again"
    return Finding("version", "note", f"ppfl {ours}, and {theirs} made the kit", advice)


def _images(site: SiteFile, study: Study) -> int:
    """How many X-rays the study finds here; none where they cannot be read, which is told."""
    try:
        if vault.is_vault(site.data):
            return len(vault.vault_files(site.data))
        return sum(1 for _ in read_records(site.data, classes=study.classes))
    except DataError:
        return 0


def _study(site: SiteFile, study: Study) -> str:
    check_approval(site)
    sites = ", ".join(study.federation.sites)
    return (
        f"{study.name} of {sites}, approved, as is the code: {grouped(study.fingerprint())}; "
        f"{study.training.rounds} rounds"
    )


def _identity(folder: Path) -> str:
    card, _ = read_identity(folder)
    return f"card of {card.site}: {grouped(card.fingerprint)}"


def _passphrase(site: SiteFile) -> Finding | None:
    path = site.passphrase_file
    if path is None:
        return None
    try:
        require_private(path)
    except KeyAccessError as error:  # a secret that a container is given is often the system's
        advice = f"{error.hint}; well only if nobody else has an account on this machine"
        return Finding("passphrase", "note", str(error), advice, error.code)
    return Finding("passphrase", "ok", f"{path}: for its owner's eyes only")


def _authority(connection: Connection) -> Finding:
    path = connection.ca_certificate
    certificate = check_authority(read_key_text(path), where=str(path))
    expires = certificate.not_valid_after_utc
    found = tell_days("authority", expires, renew="the federation must be set up anew by then")
    whose = grouped(certificate_fingerprint(certificate))
    return Finding("authority", found.state, f"{whose}; {found.found}", found.advice)


def _coordinator(connection: Connection) -> Iterator[Finding]:
    """What answers at the coordinator's address, and whether it takes this site."""
    try:
        reached = reach(connection)
    except PpflError as error:
        yield Finding.of_error("coordinator", error)
        return
    yield tell_days("certificate", reached.expires, renew="coordinator: ppfl coordinator renew")
    yield from examine_one("clock", lambda: _clock(reached))
    yield from examine_one("coordinator", lambda: _registration(connection, reached))


def _clock(reached: Reached) -> Finding:
    check_clock(reached)
    if reached.ahead_s is None:
        return Finding("clock", "note", "the coordinator told no time", "compare by telephone")
    found = f"{tell_clock(reached.ahead_s)}, within a second or two"
    if abs(reached.ahead_s) > _DRIFT_S:
        return Finding("clock", "note", found, "keep both clocks right with NTP")
    return Finding("clock", "ok", found)


def _registration(connection: Connection, reached: Reached) -> Finding:
    check_registered(connection)
    found = f"{connection.address} answers, and knows this site's key"
    if reached.status != 200:
        found += f", but SuperLink is not well: {reached.status}"
        return Finding("coordinator", "wrong", found, "coordinator: ppfl coordinator status")
    return Finding("coordinator", "ok", found)


def _port(folder: Path, port: int) -> str:
    if read_running(folder).pid is not None:
        return f"{port} is this site's own, which is running"
    require_free_port("127.0.0.1", port)
    return f"{port} is free for the SuperNode"


def _data(site: SiteFile, study: Study, key: VaultKey) -> Finding:
    advice = f"ppfl data check {site.data} --study {site.study}"
    try:
        if vault.is_vault(site.data):
            return _vault(site.data, key)
        held = Counter(record.label for record in read_records(site.data, classes=study.classes))
        report = check_folder(site.data, classes=study.classes)
    except DataError as error:  # its text can name a file, and a file a patient
        return Finding("data", "wrong", error.public_sentence, advice, error.code)
    found = ", ".join(f"{label}: {held[label]}" for label in study.classes)
    if report.left_out:  # a label can be a folder's name, and that a patient's
        found += f"; of no class, and left out: {sum(report.left_out.values())}"
    if report.unreadable:
        found += f"; images that cannot be read: {len(report.unreadable)}"
        return Finding("data", "wrong", found, advice, "data")
    if report.warnings or len(held) < len(study.classes):
        found += f"; warnings: {len(report.warnings)}"
        return Finding("data", "note", found, advice)
    return Finding("data", "ok", found)


def _vault(folder: Path, key: VaultKey) -> Finding:
    """What can be told without the private key: opening every file takes long."""
    looks = [failure for _, failure in vault.check_folder(folder, key)]
    damaged = sum(failure is not None for failure in looks)
    found = f"a vault of {len(looks)} files under the study's key"
    if damaged:
        found += f", {damaged} of them damaged or under another"
        return Finding("data", "wrong", found, f"ppfl vault verify {folder}", "data")
    return Finding("data", "ok", found)
