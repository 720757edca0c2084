"""`ppfl doctor --coordinator`: all that can keep a coordinator from running its study."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from coordinator.folder import COORDINATOR_FILE, check_start, check_study, node_keys
from coordinator.status import read_progress
from ppfl.crypto import read_public_key
from ppfl.crypto.certificates import certificate_fingerprint, check_server, read_expiry
from ppfl.crypto.signing import key_fingerprint, read_signing_key
from ppfl.crypto.textfile import require_private
from ppfl.errors import KitError, PpflError
from ppfl.federation.cards import grouped
from ppfl.federation.kit import Kit
from ppfl.findings import Finding, examine_one
from ppfl.running import read_running, require_free_port
from ppfl.settings import Connection, CoordinatorFile, Study
from sites.doctor import tell_days, tell_disk, tell_memory, tell_traffic
from sites.needs import needs_of
from sites.reach import reach

_TIMEX_BYTES = 512  # more than struct timex has
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def examine_coordinator(folder: Path) -> Iterator[Finding]:
    """What is well and what is not in a coordinator's folder, and at its ports."""
    try:
        settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
        study = Study.read(settings.study)
    except PpflError as error:
        advice = "ppfl coordinator init makes these files"
        yield Finding.of_error("settings", error, advice=advice)
        return
    yield from examine_one("certificates", lambda: _certificates(settings))
    for what, path, renew in (
        ("certificate", settings.certificate, "ppfl coordinator renew"),
        ("authority", settings.ca_certificate, "the federation must be set up anew by then"),
    ):
        yield from examine_one(what, partial(_expiry, what, path, renew))
    yield _clock()
    yield from examine_one("record", lambda: _record(settings))
    complete = list(examine_one("study", lambda: _study(settings)))
    yield from complete
    yield from _ports(settings, folder.resolve() / "flower")
    if any(finding.state == "wrong" for finding in complete):
        return
    yield from examine_one("sites", lambda: f"cards of {', '.join(node_keys(settings))}")
    yield from examine_one("kits", lambda: _kits(settings, study))
    yield from examine_one("start", lambda: _start(settings, study))
    yield from examine_one("run", lambda: _run(settings, study))
    try:
        needs = needs_of(study, read_public_key(settings.public_key))
    except PpflError as error:
        yield Finding.of_error("engine", error)
        return
    yield tell_traffic(study, needs.traffic)
    yield tell_memory(needs.coordinator_memory)
    yield tell_disk(needs.coordinator_disk, settings.run)


def _certificates(settings: CoordinatorFile) -> str:
    if settings.ca_key.exists():
        require_private(settings.ca_key)
    authority = check_server(
        settings.certificate,
        settings.certificate_key,
        authority=settings.ca_certificate,
        host=settings.host,
    )
    whose = grouped(certificate_fingerprint(authority))
    return f"for {settings.host}, of the authority {whose}"


def _record(settings: CoordinatorFile) -> str:
    return f"signed by {key_fingerprint(read_signing_key(settings.journal_key).public)}"


def _clock() -> Finding:
    """Whether something keeps this machine's clock right: the sites compare theirs with it."""
    synchronised = _is_synchronised()
    if synchronised:
        return Finding("clock", "ok", "the system says that it is synchronised")
    if synchronised is None:
        found, advice = (
            "the system does not say whether it is synchronised",
            "look at another clock",
        )
    else:
        found, advice = "the system says that it is not synchronised", "timedatectl set-ntp true"
    return Finding("clock", "note", found, f"{advice}: a site whose clock differs cannot take part")


def _is_synchronised() -> bool | None:
    """Whether the kernel takes its clock for synchronised, None where it cannot be asked."""
    asked = ctypes.create_string_buffer(_TIMEX_BYTES)  # all 0: only to be told
    try:
        state = ctypes.CDLL(None).adjtimex(asked)
    except AttributeError:  # another system than Linux
        return None
    return state != _TIME_ERROR if state >= 0 else None  # below 0: a container forbids it


def _expiry(what: str, path: Path, renew: str) -> Finding:
    return tell_days(what, read_expiry(path), renew=renew)


def _study(settings: CoordinatorFile) -> str:
    study = check_study(settings)
    return (
        f"{study.name}, {grouped(study.fingerprint())}; "
        f"key {grouped(study.encryption.key_fingerprint)}"
    )


def _ports(settings: CoordinatorFile, folder: Path) -> Iterator[Finding]:
    """Whether the ports are free, or held by this coordinator, which then must answer."""
    try:
        running = read_running(folder).pid is not None
    except PpflError as error:
        yield Finding.of_error("processes", error)
        return
    if running:
        yield from examine_one("processes", lambda: _answers(settings))
        return
    ports = [(settings.listen, settings.port), ("127.0.0.1", settings.superlink_port)]
    if settings.dashboard_port:
        ports.append(("127.0.0.1", settings.dashboard_port))
    for address, port in ports:
        yield from examine_one("port", partial(_free, address, port))


def _free(address: str, port: int) -> str:
    require_free_port(address, port)
    return f"{address} port {port} is free"


def _answers(settings: CoordinatorFile) -> Finding:
    connection = Connection(
        host=settings.host, port=settings.port, ca_certificate=settings.ca_certificate
    )
    found = f"running; {connection.address} answers"
    try:
        status = reach(connection).status
    except PpflError as error:
        advice = "a firewall may keep this machine from its own outer address: ask a site"
        return Finding("processes", "note", str(error), advice, error.code)
    if status != 200:
        advice = "ppfl coordinator status; superlink.log says why"
        return Finding("processes", "wrong", f"{found}, but SuperLink does not: {status}", advice)
    return Finding("processes", "ok", found)


def _kits(settings: CoordinatorFile, study: Study) -> str:
    for site in study.federation.sites:
        path = settings.kits / f"{site}.kit"
        kit = Kit.read(path)
        if Study.parse(kit.study, where=str(path)).fingerprint() != study.fingerprint():
            raise KitError(
                f"{path}: is a kit of another study",
                hint=f"move {settings.kits} away, then: ppfl coordinator kit",
            )
        if (kit.host, kit.port) != (settings.host, settings.port):
            raise KitError(
                f"{path}: names {kit.host} port {kit.port}, and sites will look there",
                hint=f"move {settings.kits} away, then: ppfl coordinator kit",
            )
    return f"of {', '.join(study.federation.sites)}"


def _start(settings: CoordinatorFile, study: Study) -> str:
    check_start(settings, study)
    return f"parameters {study.model.start_sha256[:16]}…, as the study names them"


def _run(settings: CoordinatorFile, study: Study) -> Finding:
    progress = read_progress(study, settings.run)
    found = f"{progress.complete} of {study.training.rounds} rounds are complete"
    if not progress.begun:
        return Finding("run", "ok", f"{settings.run}: not begun")
    if progress.failure:
        advice = "mend it: ppfl coordinator run goes on from the last complete round"
        return Finding("run", "note", f"{found}; it ended: {progress.failure}", advice)
    return Finding("run", "ok", f"{found}, closed" if progress.closed else found)
