"""`ppfl coordinator start`: it starts what `run` runs, and ends as that does if it cannot."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

from coordinator import start_command as module
from coordinator.folder import COORDINATOR_FILE
from ppfl.errors import RunError
from ppfl.federation import Journal
from ppfl.federation.journal import StudyClosed
from ppfl.running import Running, read_running, stop_running
from ppfl.settings import CoordinatorFile, read_settings
from simulations.main import _app
from sites.flower import flower_program
from tests.deployed import SITES, Deployed, free_port


@pytest.fixture
def folder(deployed: Deployed) -> Iterator[Path]:
    """A coordinator's folder that has all it needs, on ports that are free."""
    path = deployed.coordinator / COORDINATOR_FILE
    ports = {name: free_port() for name in ("port", "superlink_port", "dashboard_port")}
    changed = read_settings(path, CoordinatorFile).model_copy(
        update={"listen": "127.0.0.1"} | ports
    )
    path.write_text(changed.to_toml())
    yield deployed.coordinator
    stop_running(deployed.coordinator / "flower", patience_s=60.0)


def _start(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [flower_program("ppfl"), "coordinator", "start", str(folder), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.slow
def test_it_runs_in_the_background_until_it_is_stopped(folder: Path) -> None:
    started = _start(folder)
    assert started.returncode == 0, started.stderr
    told = json.loads(started.stdout)
    assert told["state"] == "running"
    assert {program["name"] for program in told["programs"]} == {
        *("superlink", "superexec", "gateway", "dashboard")
    }
    assert {program["state"] for program in told["programs"]} == {"running"}
    assert [site["connected"] for site in told["sites"]] == [False] * len(SITES)
    running = psutil.Process(told["pid"])
    assert running.cmdline()[-3:] == ["coordinator", "run", str(folder.resolve())]
    assert os.getsid(running.pid) == running.pid  # no terminal ends it
    again = _start(folder)
    assert (again.returncode, json.loads(again.stdout)["pid"]) == (0, told["pid"])
    assert "runs already" in again.stderr
    log = folder / "flower" / "coordinator.log"
    assert str(log) in started.stderr
    assert "Logs and status: " in log.read_text()
    assert stop_running(folder / "flower", patience_s=60.0)
    assert read_running(folder / "flower").pid is None


def test_what_run_says_when_it_cannot_start_is_said(folder: Path) -> None:
    (folder / "flower").mkdir()
    (folder / "flower" / "coordinator.log").write_text("of yesterday\n")
    (folder / "tls" / "server.key").chmod(0o644)
    started = _start(folder)
    assert (started.returncode, started.stdout) == (23, "")
    assert "ppfl: " in started.stderr
    assert "others than its owner can read this private key" in started.stderr
    assert "of yesterday" not in started.stderr


class _Run:
    """The place of `run`, which ends when it is told to, or never."""

    pid = 7

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def spawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], Result]:
    """Start a coordinator whose `run` ends with a code, or does not."""

    def start(code: int | None, said: bytes = b"what it said\n") -> Result:
        def run(_: Path, output: IO[bytes]) -> _Run:
            output.write(said)
            return _Run(code)

        monkeypatch.setattr(module, "_spawn", run)
        monkeypatch.setattr(module, "_POLL_S", 0.0)
        return CliRunner().invoke(_app, ["coordinator", "start", str(folder)])

    return start


def test_one_that_ends_at_once_ends_it_with_the_same_code(
    spawn: Callable[[int | None], Result],
) -> None:
    ended = spawn(42)
    assert ended.exit_code == 42
    assert ended.stderr.endswith("what it said\n")
    assert ended.stdout == ""


def test_one_whose_log_lies_on_a_full_disk_is_said_to_have_ended(
    spawn: Callable[..., Result],
) -> None:
    ended = spawn(60, said=b"")
    assert ended.exit_code == 60
    assert "It ended with 60, and could not write why" in ended.stderr


def test_one_that_is_ended_meanwhile_is_an_error(spawn: Callable[[int | None], Result]) -> None:
    for code in (-9, 0):
        ended = spawn(code)
        assert isinstance(ended.exception, RunError)
        assert "somebody ended it before all of it ran" in str(ended.exception)


def test_a_study_that_is_closed_is_well(
    spawn: Callable[[int | None], Result], folder: Path
) -> None:
    (folder / "run").mkdir()
    closed = StudyClosed(rounds=10, sites=SITES, model_sha256="0" * 64, seconds=1)
    Journal(folder / "run" / "journal.jsonl").write(closed)
    ended = spawn(0)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("study tiny: closed\n")


def test_one_whose_programs_do_not_come_up_is_said_and_goes_on(
    spawn: Callable[[int | None], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    ended = spawn(None)
    assert isinstance(ended.exception, RunError)
    assert "process 7 runs, but not all of its programs" in str(ended.exception)
    assert "ppfl coordinator stop" in ended.exception.hint


@pytest.mark.parametrize(
    ("states", "connected", "up"),
    [
        (("running", "running"), frozenset(), True),
        (("running", "ended"), frozenset(), False),
        (("running", "running"), None, False),
    ],
)
def test_all_programs_and_superlinks_answer_are_waited_for(
    states: tuple[str, ...], connected: frozenset[str] | None, up: bool
) -> None:
    programs = tuple({"state": state} for state in states)
    status: Any = SimpleNamespace(running=Running(7, programs), connected=connected)
    assert module._is_up(status) == up
