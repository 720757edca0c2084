"""Keeps programs running, and leaves none behind.

Every program leads a process group of its own, so that it and whatever it started can be ended
together. Should the supervisor itself be killed, a guard (:mod:`ppfl.guard`) ends them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ppfl.errors import DiskFullError, kind_of
from ppfl.files import lock_file
from ppfl.guard import PATIENCE_S, TOO_MUCH, Guard
from ppfl.log_files import BoundedLog
from ppfl.running import require_free_port

_POLL_S = 0.1
_LONGEST_DELAY_S = 15.0  # Flower takes a site that was killed back after a minute: keep asking
_STEADY_S = 60.0  # a program that ran so long has started well
_LEFT_S = 3 * PATIENCE_S  # by when all that a killed supervisor ran has ended
_log = logging.getLogger("ppfl.processes")


@dataclass(frozen=True, slots=True)
class Program:
    """A program to keep running.

    Args:
        name: what its log and the status call it.
        command: the program and its arguments.
        environment: its whole environment.
        needs: name of a program without whose present process this one is of no use; it is
            started anew together with it.
        patience_s: seconds it may take to end after SIGTERM.
        on_end: called with the exit code when it has ended by itself; what it raises ends
            the supervisor.
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(repr=False)
    needs: str = ""
    patience_s: float = 10.0
    on_end: Callable[[int], None] | None = None


class Supervisor:
    """Starts programs, starts them again when they end, and ends them all.

    Args:
        programs: what to run, in the order of starting; they are ended in the opposite order.
        folder: holds one log for each program, of bounded size, ``status.json``, and a lock.
        ports: addresses and ports of this machine on which they will listen.

    Raises:
        RunError: another supervisor runs there.
    """

    def __init__(
        self, programs: Sequence[Program], folder: Path, *, ports: Sequence[tuple[str, int]] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._ports = folder, ports
        self._lock = lock_file(folder / "lock")
        self._guard = Guard()
        self._children = [_Child(program, folder, self._guard.mark) for program in programs]
        self._stop = self._unwritten = False

    def run(self, each: Callable[[], None] = lambda: None) -> None:
        """Keep the programs running until :meth:`stop`, SIGTERM or SIGINT.

        Args:
            each: called ten times a second; it must not take long.

        Raises:
            PortInUseError: another program listens on one of the ports; nothing was started.
            RunError: one of the ports cannot be listened on.
            PpflError: what ``each`` or a program's ``on_end`` raises; the programs have been ended.
        """
        with _on_signals(lambda _number, _frame: self.stop()):
            try:
                for address, port in self._ports:
                    require_free_port(address, port, patience_s=_LEFT_S)
                while not self._stop:
                    self._tick()
                    each()
                    time.sleep(_POLL_S)
            finally:
                self.close()

    def stop(self) -> None:
        """Let :meth:`run` end."""
        self._stop = True

    def restart(self, name: str) -> None:
        """End a program, what needs it, and what they started, stopped processes too.

        They are started anew.
        """
        for child in reversed(self._children):
            if name in (child.program.name, child.program.needs):
                child.end()

    def close(self) -> None:
        """End all programs, the last first, and whatever they started."""
        for child in reversed(self._children):
            child.end()
        self._write_status()
        self._guard.end()
        self._lock.close()

    def _tick(self) -> None:
        """Note what ended, and start what is due."""
        self._guard.watch()
        changed = self._unwritten
        for child in self._children:
            child.log.bound()
            if child.note_end():
                changed = True
                for other in self._children:
                    if other.program.needs == child.program.name:
                        other.end()
        for child in self._children:
            if child.is_due():
                child.start()
                changed = True
        if changed:
            self._write_status()

    def _write_status(self) -> None:
        status = {
            "version": 1,
            "pid": os.getpid(),
            "programs": [child.status() for child in self._children],
        }
        path = self._folder / "status.json"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(status, indent=1), encoding="utf-8")
            temporary.replace(path)
            self._unwritten = False
        except OSError as error:
            if kind_of(error) is not DiskFullError:
                raise
            if not self._unwritten:
                _log.warning("%s: %s; the programs go on", path, error.strerror)
            self._unwritten = True


class _Child:
    """One program's present process, if there is one."""

    def __init__(self, program: Program, folder: Path, mark: Mapping[str, str]) -> None:
        self.program = program
        self._environment = {**program.environment, **mark}
        self.log = BoundedLog(folder / f"{program.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._since, self._due = time.time(), 0.0
        self._began = 0.0
        self._starts = self._failures = 0
        self._code: int | None = None

    def is_due(self) -> bool:
        """Whether it does not run and should."""
        return self._process is None and time.monotonic() >= self._due

    def start(self) -> None:
        """Start the program, or plan to where the machine has no process or memory for it."""
        try:
            with self.log.open() as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own environment's programs
                    self.program.command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            if error.errno not in TOO_MUCH:
                raise
            _log.warning("%s cannot be started now: %s", self.program.name, error.strerror)
            self._due = time.monotonic() + _LONGEST_DELAY_S
            return
        self._starts += 1
        self._since, self._began = time.time(), time.monotonic()

    def note_end(self) -> bool:
        """Whether the process has ended; if so, its group is gone and the next start is planned."""
        if self._process is None or not _has_ended(self._process):
            return False
        ran_s = time.monotonic() - self._began
        self._failures = 0 if ran_s > _STEADY_S else self._failures + 1
        delay_s = min(2.0 ** (self._failures - 1), _LONGEST_DELAY_S)
        self._bury(delay_s)
        _log.warning(
            "%s ended with %s after %.0f s and is started again in %.0f s; see %s",
            *(self.program.name, self._code, ran_s, delay_s, self.log.path),
        )
        if self.program.on_end is not None and self._code is not None:
            self.program.on_end(self._code)
        return True

    def end(self) -> None:
        """End the process and whatever it started."""
        if self._process is None:
            return
        os.kill(self._process.pid, signal.SIGTERM)  # Popen.terminate() may wait for it
        until = time.monotonic() + self.program.patience_s
        while not _has_ended(self._process) and time.monotonic() < until:
            time.sleep(_POLL_S / 2)
        self._bury(0)

    def status(self) -> dict[str, str | int | float | None]:
        """What ``status.json`` says of it."""
        return {
            "name": self.program.name,
            "state": "running" if self._process else "ended",
            "pid": self._process.pid if self._process else None,
            "since": round(self._since, 3),
            "starts": self._starts,
            "last_exit": self._code,
        }

    def _bury(self, delay_s: float) -> None:
        """Kill what is left of the group; its number cannot be another's before the wait."""
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            self._code = process.wait()
        self._process = None
        self._since, self._due = time.time(), time.monotonic() + delay_s


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it stays a zombie, so that its number still means its group."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
