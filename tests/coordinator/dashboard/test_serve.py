"""How the dashboard is started, and what it refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import simulations.program
from coordinator.dashboard.access import read_token
from coordinator.dashboard.serve import DashboardPlace, serve_dashboard
from ppfl.errors import (
    CertificateError,
    KeyAccessError,
    KeyFileError,
    PortInUseError,
    RunError,
    SettingsError,
)
from tests.coordinator.certificates import write_certificates
from tests.coordinator.dashboard.studies import started, write
from tests.deployed import free_port


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What uvicorn would be told to serve."""
    calls: list[dict[str, Any]] = []

    def run(server: uvicorn.Server) -> None:
        server.started = True
        calls.append(vars(server.config))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return calls


def _place(folder: Path, **changes: Any) -> DashboardPlace:
    write(folder / "run", started())
    values = {"folder": folder, "token_file": folder / "home" / "token", "port": free_port()}
    return DashboardPlace(**(values | changes))


def _serve(place: DashboardPlace) -> None:
    serve_dashboard(place, began=lambda: None)


def test_the_token_is_made_once_for_its_owners_eyes(tmp_path: Path) -> None:
    path = tmp_path / "home" / "token"
    token = read_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) > 40
    assert read_token(path) == token
    assert read_token(tmp_path / "other") != token


def test_a_token_that_others_can_read_or_that_is_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    read_token(path)
    path.chmod(0o644)
    with pytest.raises(KeyAccessError, match="others"):
        read_token(path)
    path.chmod(0o600)
    path.write_text("letmein\n")
    with pytest.raises(KeyFileError, match="7 characters, 32 are needed"):
        read_token(path)


def test_without_a_certificate_only_this_machine_is_served(
    tmp_path: Path, served: list[dict[str, Any]]
) -> None:
    with pytest.raises(SettingsError, match="can be reached from other machines") as caught:
        _serve(_place(tmp_path, listen="192.0.2.7"))
    assert "ssh -L" in caught.value.hint
    with pytest.raises(SettingsError, match="no IP address"):
        _serve(_place(tmp_path, listen="nowhere"))
    assert served == []
    place = _place(tmp_path)
    _serve(place)
    assert served[0]["host"] == "127.0.0.1"
    assert str(place).startswith(f"Dashboard: http://127.0.0.1:{place.port}/, the token: ")


def test_with_a_certificate_others_are_served(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    write_certificates(tmp_path)
    pair = {"certificate": tmp_path / "server.crt", "certificate_key": tmp_path / "server.key"}
    place = _place(tmp_path, listen="0.0.0.0", **pair)  # noqa: S104
    _serve(place)
    assert served[0]["ssl_certfile"] == pair["certificate"]
    assert "https://" in str(place)
    with pytest.raises(CertificateError):
        _serve(_place(tmp_path, **(pair | {"certificate_key": tmp_path / "server.crt"})))


def test_a_port_in_use_is_said_before_anything_is_served(
    tmp_path: Path, served: list[dict[str, Any]]
) -> None:
    place = _place(tmp_path)
    with socket.create_server(("127.0.0.1", place.port)), pytest.raises(PortInUseError):
        _serve(place)
    assert served == []


def test_a_server_that_does_not_start_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    with pytest.raises(RunError, match="did not start"):
        _serve(_place(tmp_path))


def test_to_end_it_while_a_page_is_open_is_no_error(tmp_path: Path) -> None:
    place = _place(tmp_path)
    command = [sys.executable, "-P", "-m", "coordinator.dashboard", *place.to_arguments()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        address = f"http://127.0.0.1:{place.port}"
        with httpx.Client(base_url=address, transport=httpx.HTTPTransport(retries=6)) as client:
            client.post("/login", data={"token": read_token(place.token_file)})
            with client.stream("GET", "/events") as answer:
                lines = answer.iter_lines()  # to let go of it would close the stream
                while "data:" not in next(lines):
                    pass
                process.send_signal(signal.SIGINT)
                process.wait(timeout=30)
        said = process.stderr.read()
    assert first.startswith("Dashboard: ")
    assert (said, process.returncode) == ("", 0)


def test_the_installed_program_runs_the_dashboard(
    tmp_path: Path,
    served: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = _place(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ppfl", "dashboard", *place.to_arguments()])
    with pytest.raises(SystemExit) as ended:
        simulations.program.main()
    assert ended.value.code == 0
    assert served[0]["port"] == place.port
    assert str(place) in capsys.readouterr().err
    monkeypatch.setattr(
        sys, "argv", ["ppfl", "dashboard", str(tmp_path / "nowhere"), *place.to_arguments()[1:]]
    )
    with pytest.raises(SystemExit) as ended:
        simulations.program.main()
    assert ended.value.code == 62
    assert "no such folder" in capsys.readouterr().err
