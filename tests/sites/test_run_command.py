"""`ppfl site run` and `ppfl coordinator run`, up to the processes they supervise."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import coordinator.run_command
import sites.run_command
import sites.serve
from coordinator.serve import CoordinatorPlace
from ppfl.errors import (
    ApprovalError,
    ElsewhereError,
    RunError,
    SettingsError,
    UnreachableError,
)
from ppfl.federation import Journal
from ppfl.federation.journal import SiteEnrolled
from ppfl.processes import Program, Supervisor
from ppfl.settings import Connection, CoordinatorFile, GatewayLimits, SiteFile
from simulations.main import _app
from tests.simulations.tiny import SITES


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """What would be supervised."""
    programs: list[Program] = []

    def take(_: Supervisor, given: list[Program], __: Path, *, ports: Any) -> None:
        programs.extend(given)
        assert ports == (("127.0.0.1", 9501),)

    monkeypatch.setattr(Supervisor, "__init__", take)
    monkeypatch.setattr(Supervisor, "run", lambda _, each: each())
    return programs


def _write_site(folder: Path, host: str | None) -> None:
    connection = Connection(host=host, port=9443) if host else None
    site = SiteFile(name=SITES[0], data=folder, coordinator=connection)
    (folder / "site.toml").write_text(site.to_toml())


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(_app, arguments, catch_exceptions=True)


@pytest.mark.parametrize(
    ("host", "superlink"),
    [("ppfl.example.org", "ppfl.example.org:9443"), ("2001:db8::1", "[2001:db8::1]:9443")],
)
def test_a_site_connects_to_its_coordinator(
    host: str,
    superlink: str,
    supervised: list[Program],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write_site(tmp_path, host)
    (tmp_path / "work" / "flower").mkdir(parents=True)
    checked: list[str] = []
    for name in ("check_approval", "check_key"):
        note = lambda site, name=name: checked.append(f"{name} {site.name}")  # noqa: E731
        monkeypatch.setattr(sites.run_command, name, note)

    def away(coordinator: Connection) -> None:
        raise UnreachableError(f"{coordinator.address} cannot be reached")

    monkeypatch.setattr(sites.run_command, "check_coordinator", away)
    result = _run("site", "run", str(tmp_path))
    assert result.exit_code == 0
    assert f"{superlink} cannot be reached. The site goes on asking" in result.stderr
    assert checked == [f"check_approval {SITES[0]}", f"check_key {SITES[0]}"]
    supernode, superexec = supervised
    command = " ".join(map(str, supernode.command))
    assert f"--superlink {superlink} --root-certificates {tmp_path}/ca.crt" in command
    assert f"--auth-supernode-private-key {tmp_path}/supernode.key" in command
    assert "--host 127.0.0.1 --port 9501" in command
    assert supernode.command[-1] == f'site-file="{tmp_path}/site.toml"'
    assert superexec.needs == supernode.name
    own = Path(superexec.environment["PATH"].split(":")[0]) / "flwr-clientapp"
    assert "-P -m sites.client_process" in own.read_text()


def test_a_site_that_is_of_no_federation_or_not_approved_does_not_start(
    supervised: list[Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: SiteFile) -> None:
        raise ApprovalError("other code")

    monkeypatch.setattr(sites.run_command, "check_approval", refuse)
    for host, kind in ((None, SettingsError), ("a", ApprovalError)):
        _write_site(tmp_path, host)
        assert isinstance(_run("site", "run", str(tmp_path)).exception, kind)
    assert supervised == []


def test_a_path_that_flower_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="quotation marks"):
        sites.serve.serve_site(
            site_file=tmp_path / 'a"b' / "site.toml",
            superlink="a:1",
            authority=tmp_path,
            node_key=tmp_path,
            node_port=1,
            folder=tmp_path,
            each=lambda: None,
        )


def test_a_supernode_that_superlink_has_elsewhere_is_said_once_and_given_up_after_three_minutes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(sites.serve.time, "monotonic", lambda: now[0])
    elsewhere = sites.serve._Elsewhere()
    for now[0], code in ((0, 47), (170, 47), (171, 1), (175, 47), (350, 47)):
        elsewhere(code)
    said = "another SuperNode of this site is connected, or was until a minute ago"
    assert [message.startswith(said) for message in caplog.messages] == [True, True]
    now[0] = 356
    with pytest.raises(ElsewhereError, match="is connected to the coordinator, and stays"):
        elsewhere(47)


def test_a_coordinator_serves_what_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CoordinatorFile(
        host="localhost", port=1, superlink_port=2, dashboard_port=3, gateway=GatewayLimits(burst=7)
    )
    (tmp_path / "coordinator.toml").write_text(settings.to_toml())
    places: list[CoordinatorPlace] = []
    here = coordinator.run_command
    monkeypatch.setattr(here, "check_server", lambda *_, **__: None)
    monkeypatch.setattr(here, "prepare_run", lambda given: given.run)
    monkeypatch.setattr(here, "node_keys", lambda _: {"a": "key"})

    def serve(place: CoordinatorPlace, *, each: Callable[[], object]) -> bool:
        places.append(place)
        Journal(place.run / "journal.jsonl").write(SiteEnrolled(site="a", bytes_up=1))
        each()
        return True

    monkeypatch.setattr(here, "serve_coordinator", serve)
    result = _run("coordinator", "run", str(tmp_path), "--json")
    assert result.stderr.endswith("  a enrolled\n")
    assert f'"journal": "{tmp_path}/run/journal.jsonl"' in result.stdout
    (place,) = places
    assert place.limits.burst == 7
    assert (place.port, place.superlink_port, place.sites) == (1, 2, {"a": "key"})
    assert place.dashboard.port == 3
    assert place.certificate == tmp_path / "tls" / "server.crt"
    assert place.folder == tmp_path / "flower"


def test_a_client_process_reports_before_it_loads_torch() -> None:
    """Flower gives it 30 s to report, and on a slow machine torch alone takes as long."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, sites.client_process; print('torch' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert loaded.stdout == "False\n"


def test_a_client_process_that_is_told_to_end_says_nothing() -> None:
    """A SuperNode to which it said goodbye would wait for its answer for ever."""
    code = (
        "import os, signal, time, sites.client_process as own;"
        "from flwr.supercore.telemetry import EventType;"
        "own._end_on_signals(event_type=EventType.FLWR_CLIENTAPP_RUN_LEAVE,"
        " exit_handlers=[lambda: print('goodbye', flush=True)]);"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")
