"""Processes that end with the one that started them, even where that is killed with -9.

They bear a mark in their environments. A small process, the guard, waits for the end of a pipe
from the one that started them and then ends whatever bears it. (Linux could signal the processes
itself, but not what they started, and a ClientApp that hangs would stay.)
"""

from __future__ import annotations

import errno
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from signal import SIGKILL, SIGTERM

import psutil

PATIENCE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
TOO_MUCH = (errno.EAGAIN, errno.ENOMEM)
"""Why no process can be started while others have too many, or too much memory."""
_POLL_S = 0.1
_MARK = "PPFL_SUPERVISOR"  # the environment variable by which the guard knows the processes


class Guard:
    """Ends what bears its mark: when told to, or when this process has ended.

    A mark is inherited by whatever a marked process starts.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of processes holds that are to end with this one."""
        return {_MARK: self._mark}

    def watch(self) -> None:
        """Start to wait for this process's end, also where a guard was started and killed.

        Where the machine has no process or memory for it now, the next call tries again.
        """
        if self._process is None or self._process.poll() is not None:
            self._dismiss()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this module
                    [sys.executable, "-P", "-m", "ppfl.guard", self._mark],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                if error.errno not in TOO_MUCH:
                    raise

    def end(self) -> None:
        """End what is marked, SIGTERM first, and wait no longer."""
        _end_marked(self._mark)
        self._dismiss()

    def _dismiss(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _end_marked(mark: str) -> None:
    patient_until = time.monotonic() + PATIENCE_S
    left: set[psutil.Process] = set()
    asked: set[psutil.Process] = set()
    while left := {process for process in left | set(_marked(mark)) if _runs(process)}:
        impatient = time.monotonic() > patient_until
        for process in left if impatient else left - asked:
            with suppress(psutil.Error):
                process.send_signal(SIGKILL if impatient else SIGTERM)
        asked |= left
        time.sleep(_POLL_S)


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Those with the mark and what they started: Ray's write their titles over their marks."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_MARK) == mark and _runs(process):
                yield process
                yield from process.children(recursive=True)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _end_marked(sys.argv[1])
