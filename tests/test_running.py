"""Supervisors seen, and ended, from another process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ppfl.errors import PortInUseError, RunError
from ppfl.running import Running, read_running, require_free_port, stop_running

_CODE = """
import os, sys
from pathlib import Path
from ppfl.processes import Program, Supervisor
program = Program("a", ["/bin/sleep", "100"], dict(os.environ))
Supervisor([program], Path(sys.argv[1])).run()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", _CODE, str(tmp_path)])
    until = time.monotonic() + 60
    while not (tmp_path / "status.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_supervisor_is_seen_and_ended(
    tmp_path: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    running = read_running(tmp_path)
    assert running.pid == supervisor.pid
    (program,) = running.programs
    assert (program["name"], program["state"], program["starts"]) == ("a", "running", 1)
    assert stop_running(tmp_path, patience_s=60)
    assert supervisor.wait(timeout=60) == 0
    assert not psutil.pid_exists(program["pid"])
    assert read_running(tmp_path).pid is None
    assert not stop_running(tmp_path, patience_s=0)


def test_one_that_was_killed_runs_no_more(
    tmp_path: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    supervisor.kill()
    supervisor.wait()
    running = read_running(tmp_path)
    assert running.pid is None
    assert [program["state"] for program in running.programs] == ["ended"]


def test_a_process_that_got_the_number_of_a_supervisor_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    status = {"version": 1, "pid": os.getpid(), "programs": []}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert not stop_running(tmp_path, patience_s=0)


def test_one_that_does_not_end_is_said(
    tmp_path: Path, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    with pytest.raises(RunError, match="has not ended within 0 s"):
        stop_running(tmp_path, patience_s=0)


def test_another_users_supervisor_is_said(
    tmp_path: Path, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_: psutil.Process) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "open_files", deny)
    with pytest.raises(RunError, match="belongs to another user"):
        read_running(tmp_path)


def test_another_users_process_that_got_the_number_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    status = {"version": 1, "pid": os.getpid(), "programs": []}
    (tmp_path / "status.json").write_text(json.dumps(status))
    monkeypatch.setattr(psutil.Process, "uids", lambda _: SimpleNamespace(effective=12345))
    assert read_running(tmp_path).pid is None


def test_a_folder_without_a_supervisor(tmp_path: Path) -> None:
    assert read_running(tmp_path / "none") == Running(None, ())
    for text in ("{", "[]", '{"pid": 1}', '{"pid": 1, "programs": [1]}'):
        (tmp_path / "status.json").write_text(text)
        with pytest.raises(RunError, match="damaged"):
            read_running(tmp_path)


def test_a_port_in_use_is_said_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1 port {port} is in use") as caught:
            require_free_port("127.0.0.1", port)
        assert f":{port}" in caught.value.hint
        monkeypatch.setattr(time, "sleep", lambda _: taken.close())
        require_free_port("127.0.0.1", port, patience_s=10)
    with pytest.raises(RunError, match=r"192\.0\.2\.1 port 1 cannot be listened on"):
        require_free_port("192.0.2.1", 1)
