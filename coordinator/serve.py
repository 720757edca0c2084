"""The coordinator's processes: SuperLink, what runs the ServerApp, and the gateway before them."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from coordinator.control import Control
from coordinator.dashboard.serve import DashboardPlace
from coordinator.gateway_server import GatewaySettings
from coordinator.health import SILENT_S, Health
from ppfl.errors import QuorumError, RunError, error_of
from ppfl.federation import read_events, read_last_event
from ppfl.federation.journal import INTERNAL, RoundClosed, StudyClosed, StudyFailed
from ppfl.files import replace_text
from ppfl.processes import Program, Supervisor
from ppfl.settings import GatewayLimits
from ppfl.uploads import UPLOADS
from sites.bundle import app_bundle
from sites.flower import flower_environment, flower_program, write_secret

_LOOK_S = 2.0  # between two looks at SuperLink
_AGAIN_S = 30.0  # before a study that lacked sites is taken up again, the first time
_LONGEST_S = 600.0  # and the last
_LOST_AGAIN_S = 2.0  # the same where its process was lost, which says nothing about the next one
_LOST_TIMES = 5  # in a row, without a round complete: then something else is wrong
_log = logging.getLogger("ppfl.coordinator")


@dataclass(frozen=True, slots=True)
class CoordinatorPlace:
    """Where the coordinator's processes listen, and where their files lie.

    Args:
        folder: for logs, the status, SuperLink's database and Flower's own files.
        run: the run's folder, where the ServerApp finds the study and keeps its record.
        listen: address on which the gateway listens for the sites.
        port: the gateway's port.
        superlink_port: SuperLink's, on the loopback interface.
        certificate: the gateway's and SuperLink's, PEM; it must name 127.0.0.1, too.
        certificate_key: its private key.
        authority: certificate of the CA that issued it.
        journal_key: private key with which the journal's records are signed.
        sites: the sites' public keys, in OpenSSH's format, by the sites' names.
        limits: what one peer may ask of the gateway.
        dashboard_port: the dashboard's, on the loopback interface; 0: none is started.
    """

    folder: Path
    run: Path
    listen: str
    port: int
    superlink_port: int
    certificate: Path
    certificate_key: Path
    authority: Path
    journal_key: Path
    sites: Mapping[str, str]
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    dashboard_port: int = 0

    @property
    def registered(self) -> Path:
        """A file with the sites' keys that SuperLink knows, one a line; it keeps them."""
        return self.folder / "registered"

    @property
    def dashboard(self) -> DashboardPlace:
        """What the dashboard shows, and where."""
        return DashboardPlace(
            folder=self.run,
            token_file=self.folder / "dashboard.token",
            port=self.dashboard_port,
        )


def serve_coordinator(place: CoordinatorPlace, *, each: Callable[[], object]) -> bool:
    """Whether the study was run to its end; SIGTERM and SIGINT end it before, and it can go on.

    Args:
        place: where its processes are.
        each: called ten times a second meanwhile.

    Raises:
        PortInUseError: another program listens on one of the ports.
        RunError: the coordinator runs already in this folder.
        KeyMaterialError: a site's key is none.
        PpflError: the study broke off for a reason that trying again does not change, such as a
            spoiled total or a full disk; the run's journal tells it as well.
    """
    ports = [(place.listen, place.port), ("127.0.0.1", place.superlink_port)]
    if place.dashboard_port:
        ports.append((place.dashboard.listen, place.dashboard_port))
    supervisor = Supervisor(coordinator_programs(place), place.folder, ports=ports)
    write_secret(_secret(place))
    study = _Study(place, end_server_app=lambda: supervisor.restart("superexec"))
    listen = f"[{place.listen}]" if ":" in place.listen else place.listen
    health = Health(
        superlink=f"127.0.0.1:{place.superlink_port}",
        gateway=f"{listen}:{place.port}",
        authority=place.authority,
    )

    def look() -> None:
        each()
        if silent := health.find_silent():
            _log.warning("%s has been silent for %.0f s and is started again", silent, SILENT_S)
            supervisor.restart(silent)
        if study.is_closed():
            supervisor.stop()

    try:
        with health:
            supervisor.run(look)
    finally:
        study.close()
    return _is_closed(place.run)


def coordinator_programs(place: CoordinatorPlace) -> list[Program]:
    """The programs to supervise; the gateway's settings are written for it."""
    here, secret = f"127.0.0.1:{place.superlink_port}", str(_secret(place))
    place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = GatewaySettings(
        listen=place.listen,
        port=place.port,
        certificate=place.certificate,
        certificate_key=place.certificate_key,
        superlink=f"https://{here}",
        authority=place.authority,
        sites=dict(place.sites),
        log=place.folder / "requests.log",
        uploads=place.run / UPLOADS,
        registered=place.registered,
        limits=place.limits,
    )
    written = place.folder / "gateway.toml"
    replace_text(written, tomli_w.dumps(settings.model_dump(mode="json")))
    gateway = [sys.executable, "-P", "-m", "coordinator.gateway_server", str(written)]
    programs = [
        Program(
            "superlink",
            [
                flower_program("flower-superlink"),
                *("--host", "127.0.0.1", "--port", str(place.superlink_port)),
                *("--ssl-ca-certfile", str(place.authority)),
                *("--ssl-certfile", str(place.certificate)),
                *("--ssl-keyfile", str(place.certificate_key)),
                *("--enable-supernode-auth", "--database", str(place.folder / "state.db")),
                *("--isolation", "process", "--superexec-auth-secret-file", secret),
            ],
            flower_environment(place.folder / "superlink"),
        ),
        Program(
            "superexec",
            [
                flower_program("flower-superexec"),
                *("--root-certificates", str(place.authority), "--runtime-api-address", here),
                *("--superexec-auth-secret-file", secret),
            ],
            flower_environment(place.folder / "superexec")
            | {"PPFL_RUN": str(place.run), "PPFL_JOURNAL_KEY": str(place.journal_key)},
            # SuperLink gives a run up when it is started anew
            needs="superlink",
        ),
        Program("gateway", gateway, flower_environment(place.folder / "gateway")),
    ]
    if place.dashboard_port:
        options = place.dashboard.to_arguments()
        command = [sys.executable, "-P", "-m", "coordinator.dashboard", *options]
        programs.append(Program("dashboard", command, dict(os.environ)))
    return programs


class _Study:
    """The study's run at SuperLink, started again until the study is closed.

    Args:
        place: where the coordinator's processes are.
        end_server_app: ends the ServerApp, if there still is one.
    """

    def __init__(self, place: CoordinatorPlace, *, end_server_app: Callable[[], None]) -> None:
        self._place, self._end_server_app = place, end_server_app
        self._control: Control | None = None
        self._run, self._next = 0, 0.0
        self._journal = place.run / "journal.jsonl"
        self._complete = self._times = self._told = 0

    def is_closed(self) -> bool:
        """Whether the study has come to its end; on the way there, take it a step further."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _LOOK_S
        try:
            has_ended = self._go_on()
        except RunError as error:
            _log.warning("%s", error)
            self.close()
            return False
        return has_ended and self._settle()

    def close(self) -> None:
        """Hang up on SuperLink."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _go_on(self) -> bool:
        """Whether a run has ended, and the study perhaps with it.

        Raises:
            RunError: SuperLink does not answer.
        """
        if self._control is None:
            if not _listens(self._place.superlink_port):
                return False
            self._control = Control(self._place.superlink_port, self._place.authority)
            self._control.register(self._place.sites)
            keys = self._place.sites.values()
            replace_text(self._place.registered, "".join(f"{key.strip()}\n" for key in keys))
        if self._run:
            return self._control.has_finished(self._run)
        if _is_closed(self._place.run):
            return True
        if left := self._control.stop_unfinished():  # else two would go on with one study
            _log.warning("runs of before are stopped: %s", ", ".join(map(str, left)))
        self._told = _bytes(self._journal)
        self._run = self._control.start_run(app_bundle())
        _log.info("run %d has started", self._run)
        return False

    def _settle(self) -> bool:
        """Whether the study is closed; if only its run has ended, another one is due."""
        if _is_closed(self._place.run):
            return True
        # Flower gives up a ServerApp that was only stopped; no two may write one journal
        self._end_server_app()
        why, again_s = self._look_why()
        _log.warning("run %d broke off: %s; taken up again in %.0f s", self._run, why, again_s)
        self._run, self._next = 0, time.monotonic() + again_s
        return False

    def _look_why(self) -> tuple[str, float]:
        """Why the run broke off, and in how many seconds it is worth while to try again.

        Raises:
            PpflError: it is not.
        """
        complete = sum(1 for _ in read_events(self._journal, RoundClosed))
        self._times = self._times + 1 if complete == self._complete else 1
        self._complete = complete
        why, first_s = "its process was lost", _LOST_AGAIN_S
        failed = read_last_event(self._journal)
        # what stood there before is of an earlier run, and may have been mended since
        if isinstance(failed, StudyFailed) and _bytes(self._journal) > self._told:
            why = failed.sentence
            if failed.code == QuorumError.code:
                first_s = _AGAIN_S  # sites come back
            elif failed.code != INTERNAL:
                raise error_of(failed.code, why)
        if first_s < _AGAIN_S and self._times > _LOST_TIMES:
            raise RunError(
                f"the study broke off {self._times} times after round {complete}; the last time: "
                f"{why}",
                hint=f"`flwr log` and the logs in {self._place.folder} may tell more; report it",
            )
        return why, min(first_s * 2.0 ** (self._times - 1), _LONGEST_S)


def _secret(place: CoordinatorPlace) -> Path:
    return place.folder / "superexec.secret"


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_closed(run: Path) -> bool:
    return isinstance(read_last_event(run / "journal.jsonl"), StudyClosed)
