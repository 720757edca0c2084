"""Functions run in fresh processes of their own, and the time and memory that they take."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ppfl.errors import PpflError, RunError

_MEGABYTE = 1e6
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the clock, and seconds of all cores together."""

    wall_s: float
    cpu_s: float

    def times(self, scale: float) -> Cost:
        """The cost of so many times as much work."""
        return Cost(self.wall_s * scale, self.cpu_s * scale)


class UnsupportedProcessorError(RunError):
    """A process met an instruction that this processor does not have."""


def run_alone(task: str, arguments: Mapping[str, Any]) -> Any:
    """What a function of this package returns in a fresh process of its own.

    ``task`` is ``module:function`` within this package. The arguments and what comes back are
    what JSON can hold.

    Raises:
        UnsupportedProcessorError: the process met an instruction that is missing here.
        RunError: the function raised, or the process ended early; the message says how.
    """
    command = [sys.executable, "-P", "-m", "benchmarks.process", task, json.dumps(dict(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this program itself
    if done.returncode == -signal.SIGILL:
        raise UnsupportedProcessorError("it uses instructions that this processor does not have")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(f"{task} ended with exit code {done.returncode}: {last}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RunError(answer["error"])
    return answer["result"]


def measure_cost(act: Callable[[], T]) -> tuple[T, Cost]:
    """What a call returns, and what it costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return result, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def measure_peak(act: Callable[[], T]) -> tuple[T, float | None]:
    """What a call returns, and the megabytes it needs beyond what this process holds before it.

    ``None`` where the system does not tell (``/proc/self/clear_refs`` is Linux's).
    """
    _give_back()
    before = psutil.Process().memory_info().rss
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        return act(), None
    result = act()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return result, max(0.0, (peak * 1024 - before) / _MEGABYTE)


def _give_back() -> None:
    """Return freed memory to the system, or a call could take it again and seem to need none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _main() -> None:
    task, arguments = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    module, _, function = task.partition(":")
    act = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    try:
        answer = {"result": act(**json.loads(arguments))}
    except PpflError as error:
        answer = {"error": str(error)}
    with contextlib.closing(answers):
        json.dump(answer, answers)


if __name__ == "__main__":
    _main()
