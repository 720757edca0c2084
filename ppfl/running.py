"""What a supervisor on this machine runs, seen from another process, and how to end it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ppfl.errors import PortInUseError, RunError

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Running:
    """A supervisor's folder: who runs there, and what it last wrote of its programs.

    ``pid`` is the supervisor's process, None where none runs; ``programs`` are those of
    ``status.json``, all of them ended where no supervisor runs.
    """

    pid: int | None
    programs: tuple[dict[str, Any], ...]


def read_running(folder: Path) -> Running:
    """What runs from a supervisor's folder, nothing if there is no such folder.

    Raises:
        RunError: its ``status.json`` is damaged, or its supervisor is another user's.
    """
    path = folder / "status.json"
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        pid, programs = int(status["pid"]), tuple(dict(program) for program in status["programs"])
    except FileNotFoundError:
        return Running(None, ())
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{path}: cannot be read, or is damaged") from None
    if _holds(pid, folder / "lock"):
        return Running(pid, programs)
    return Running(None, tuple(program | {"state": "ended", "pid": None} for program in programs))


def stop_running(folder: Path, *, patience_s: float) -> bool:
    """End a supervisor and all that it runs; whether there was one.

    Raises:
        RunError: it has not ended in time, or is another user's.
    """
    pid = read_running(folder).pid
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + patience_s
    while _holds(pid, folder / "lock"):
        if time.monotonic() > until:
            raise RunError(f"process {pid} has not ended within {patience_s:g} s")
        time.sleep(_POLL_S)
    return True


def require_free_port(address: str, port: int, *, patience_s: float = 0.0) -> None:
    """Check that a port of this machine can be listened on.

    ``patience_s`` is how long to wait for what a supervisor that was killed has left.

    Raises:
        PortInUseError: another program listens there.
        RunError: the address is not this machine's, or the port may not be listened on.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    until = time.monotonic() + patience_s
    while True:
        try:
            socket.create_server((address, port), family=family).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise RunError(
                    f"{address} port {port} cannot be listened on: {error.strerror}"
                ) from None
        if time.monotonic() >= until:
            raise PortInUseError(
                f"{address} port {port} is in use: another program listens there",
                hint=f"`ss -tlnp sport = :{port}` tells which; end it, or name another port in the "
                "settings",
            )
        time.sleep(_POLL_S)


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process holds a supervisor's lock: its number alone may be another's by now."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.uids().effective != lock.stat().st_uid:
            return False
        files = process.open_files()
    except psutil.AccessDenied:
        raise RunError(
            f"process {pid}, which runs from {lock.parent}, belongs to another user",
            hint="run this as the user who started it",
        ) from None
    except (psutil.Error, FileNotFoundError):
        return False
    return any(Path(file.path) == lock.resolve() for file in files)
