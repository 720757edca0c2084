"""Programs that are kept running, and that leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ppfl.errors import PortInUseError, RunError
from ppfl.guard import Guard
from ppfl.processes import Program, Supervisor

_PARENT = "sleep 100 & echo $$ $! >> {pids}; wait"  # a program that starts another one


def _status(folder: Path) -> dict[str, Any]:
    programs = json.loads((folder / "status.json").read_text())["programs"]
    return {program["name"]: program for program in programs}


def _until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        with suppress(FileNotFoundError, KeyError, IndexError):
            if condition():
                return
        assert time.monotonic() < until
        time.sleep(0.02)


def _program(name: str, script: str, **options: Any) -> Program:
    return Program(name, ["/bin/sh", "-c", script], dict(os.environ), **options)


def _pids(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()]


def _alive(pids: list[int]) -> list[int]:
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != "zombie"]


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that supervises two programs, each with a child."""
    code = (
        "import os, sys; from pathlib import Path; from ppfl.processes import Program, Supervisor;"
        f"script = {_PARENT!r}.format(pids=sys.argv[1] + '/pids');"
        "programs = [Program(n, ['/bin/sh', '-c', script], dict(os.environ)) for n in 'ab'];"
        "Supervisor(programs, Path(sys.argv[1])).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    _until(lambda: len(_pids(tmp_path / "pids")) == 4)
    yield process
    process.kill()
    process.wait()


def test_who_is_told_how_a_program_ended_can_end_the_supervisor(tmp_path: Path) -> None:
    codes: list[int] = []

    def note(code: int) -> None:
        codes.append(code)
        if len(codes) == 2:
            raise RunError("it ends like this again and again")

    failing = _program("a", "exit 47", on_end=note)
    supervisor = Supervisor([failing, _program("b", "sleep 100")], tmp_path)
    with pytest.raises(RunError, match="again and again"):
        supervisor.run()
    assert codes == [47, 47]
    assert {program["state"] for program in _status(tmp_path).values()} == {"ended"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_that_is_told_to_end_ends_everything(
    tmp_path: Path, supervised: subprocess.Popen[bytes], number: int
) -> None:
    supervised.send_signal(number)
    assert supervised.wait(timeout=60) == 0
    assert _alive(_pids(tmp_path / "pids")) == []
    assert {p["state"] for p in _status(tmp_path).values()} == {"ended"}


def test_nothing_is_left_of_a_supervisor_that_was_killed(
    tmp_path: Path, supervised: subprocess.Popen[bytes]
) -> None:
    supervised.kill()
    supervised.wait()
    _until(lambda: _alive(_pids(tmp_path / "pids")) == [])


def test_a_guard_that_was_killed_is_replaced(
    tmp_path: Path, supervised: subprocess.Popen[bytes]
) -> None:
    (guard,) = (p for p in psutil.Process(supervised.pid).children() if "-m" in p.cmdline())
    guard.kill()
    os.kill(_status(tmp_path)["a"]["pid"], signal.SIGKILL)
    _until(lambda: len(_pids(tmp_path / "pids")) == 6)
    supervised.kill()
    _until(lambda: _alive(_pids(tmp_path / "pids")) == [])


def test_what_is_marked_ends_also_where_the_guard_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ppfl.guard.PATIENCE_S", 0.2)
    guard = Guard()
    guard.watch()
    (process,) = (p for p in psutil.Process().children() if "ppfl.guard" in p.cmdline())
    process.kill()
    shell = ["sh", "-c", "trap '' TERM; sleep 100 & wait; sleep 100"]  # only SIGKILL ends it
    with subprocess.Popen(shell, env={**os.environ, **guard.mark}) as marked:
        _until(lambda: len(psutil.Process(marked.pid).children()) == 1)
        (started,) = psutil.Process(marked.pid).children()
        guard.end()
        assert marked.wait() == -signal.SIGKILL
    assert not _alive([started.pid])


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
def test_a_machine_that_has_no_process_left_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    start, failed = subprocess.Popen, []

    def fail_first(*arguments: Any, **options: Any) -> Any:
        if len(failed) < 2:  # the guard, and the program
            failed.append(arguments)
            raise OSError(code, "no more of them")
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", fail_first)
    monkeypatch.setattr("ppfl.processes._LONGEST_DELAY_S", 0.3)
    supervisor = Supervisor([_program("a", "sleep 100")], tmp_path)

    def look() -> None:
        if _status(tmp_path)["a"]["state"] == "running":
            supervisor.stop()

    supervisor.run(look)
    assert len(failed) == 2
    assert _status(tmp_path)["a"]["starts"] == 1


def test_a_program_that_ends_is_started_again_and_what_it_started_is_ended(tmp_path: Path) -> None:
    pids, seen = tmp_path / "pids", []
    script = f"sleep 100 & echo $! >> {pids}; exit 3"

    def look() -> None:
        if _status(tmp_path)["a"]["starts"] == 2:
            seen.append(_status(tmp_path)["a"]["last_exit"])
            supervisor.stop()

    supervisor = Supervisor([_program("a", script)], tmp_path)
    began = time.monotonic()
    supervisor.run(look)
    assert seen == [3]
    assert 0.9 < time.monotonic() - began < 30
    assert len(_pids(pids)) == 2
    assert _alive(_pids(pids)) == []


def test_the_delay_grows_to_a_quarter_of_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.processes._POLL_S", 0.01)
    supervisor = Supervisor([_program("a", "exit 1")], tmp_path)

    def hurry() -> None:
        supervisor._children[0]._due = 0
        if len(caplog.messages) == 6:
            supervisor.stop()

    supervisor.run(hurry)
    delays = [message.split(" again in ")[1].split(";")[0] for message in caplog.messages]
    assert delays == ["1 s", "2 s", "4 s", "8 s", "15 s", "15 s"]


def test_a_program_starts_anew_with_the_one_it_needs(tmp_path: Path) -> None:
    programs = [_program("a", "sleep 100"), _program("b", "sleep 100", needs="a")]
    supervisor, first = Supervisor([*programs, _program("c", "sleep 100")], tmp_path), {}

    def look() -> None:
        status = _status(tmp_path)
        if not first:
            first.update(status)
            os.kill(status["a"]["pid"], signal.SIGKILL)
        elif status["a"]["starts"] == 2:
            assert status["b"]["starts"] == 2
            assert status["b"]["pid"] != first["b"]["pid"]
            assert status["c"] == first["c"]
            supervisor.stop()

    supervisor.run(look)


def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    stubborn = _program("a", "trap '' TERM; echo up; while :; do sleep 1; done", patience_s=0.3)
    supervisor = Supervisor([stubborn], tmp_path)
    log = tmp_path / "a.log"
    supervisor.run(lambda: supervisor.stop() if log.read_text() == "up\n" else None)
    assert _status(tmp_path)["a"]["last_exit"] == -signal.SIGKILL


def test_an_error_ends_the_programs(tmp_path: Path) -> None:
    def fail() -> None:
        raise RunError("enough")

    supervisor = Supervisor([_program("a", "sleep 100")], tmp_path)
    with pytest.raises(RunError, match="enough"):
        supervisor.run(fail)
    assert _status(tmp_path)["a"]["state"] == "ended"


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    first = Supervisor([], tmp_path)
    with pytest.raises(RunError, match="running already"):
        Supervisor([], tmp_path)
    first.close()
    Supervisor([], tmp_path).close()


def test_nothing_is_started_where_a_port_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.processes._LEFT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = taken.getsockname()
        with pytest.raises(PortInUseError):
            Supervisor([_program("a", "sleep 100")], tmp_path, ports=[here]).run()
    assert _status(tmp_path)["a"]["starts"] == 0
    supervisor = Supervisor([_program("a", "sleep 100")], tmp_path, ports=[here])  # not locked
    supervisor.run(supervisor.stop)
    assert _status(tmp_path)["a"]["starts"] == 1


def test_a_program_that_writes_and_writes_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, largest = 100_000, 0
    monkeypatch.setattr("ppfl.log_files.LOG_BYTES", bound)
    monkeypatch.setattr("ppfl.processes._POLL_S", 0.01)
    # at most 2 kB a millisecond, so some 20 kB between two looks of the supervisor's
    script = (
        "import time\nfor n in range(10**6): print(f'{n:01999}', flush=True); time.sleep(0.001)"
    )
    program = Program("a", [sys.executable, "-c", script], dict(os.environ))
    supervisor = Supervisor([program], tmp_path)
    logs = [tmp_path / "a.log", tmp_path / "a.log.1"]

    def numbers(log: Path) -> list[int]:
        return [int(line) for line in log.read_bytes().split(b"\n") if len(line) == 1999]

    def look() -> None:
        nonlocal largest
        largest = max(largest, *(log.stat().st_size for log in logs if log.exists()))
        newest = numbers(logs[0])
        if newest and newest[-1] * 2000 > 12 * bound:
            supervisor.stop()

    supervisor.run(look)
    assert largest < 4 * bound
    aside, newest = numbers(logs[1]), numbers(logs[0])
    assert len(aside) >= bound / 2000 - 1
    for found in (aside, newest):
        assert found == list(range(found[0], found[-1] + 1))
    assert aside[-1] < newest[0] < aside[-1] + 100  # the cut takes next to nothing


def test_a_long_log_of_an_earlier_start_is_laid_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.log_files.LOG_BYTES", 6)
    log = tmp_path / "a.log"
    log.write_text("older, newer")
    supervisor = Supervisor([_program("a", "echo new; sleep 100")], tmp_path)
    supervisor.run(lambda: supervisor.stop() if log.read_text() == "new\n" else None)
    assert (tmp_path / "a.log.1").read_text() == " newer"


def test_a_program_that_is_to_start_anew_leaves_no_stopped_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    needing = _program("b", "sleep 100", needs="a")
    supervisor = Supervisor([_program("a", _PARENT.format(pids=pids)), needing], tmp_path)

    def look() -> None:
        if not pids.exists() or len(_pids(pids)) < 2:
            return
        if not struck:
            struck.append(True)
            os.kill(_pids(pids)[1], signal.SIGSTOP)
            supervisor.restart("a")
            _until(lambda: _alive(_pids(pids)[:2]) == [])
        elif len(_pids(pids)) == 4:
            supervisor.stop()

    struck: list[bool] = []
    supervisor.run(look)
    assert [program["starts"] for program in _status(tmp_path).values()] == [2, 2]


def test_a_full_disk_does_not_end_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Path.write_text

    def fill(path: Path, *arguments: Any, **options: Any) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    full = True
    monkeypatch.setattr(Path, "write_text", fill)
    supervisor = Supervisor([_program("a", "exit 1"), _program("b", "sleep 100")], tmp_path)

    def look() -> None:
        nonlocal full
        if supervisor._children[0]._starts == 2:
            full = False
        if (tmp_path / "status.json").exists():
            supervisor.stop()

    supervisor.run(look)
    assert len([m for m in caplog.messages if "No space left on device" in m]) == 1
    assert _status(tmp_path)["b"]["starts"] == 1
