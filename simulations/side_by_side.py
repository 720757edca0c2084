"""Trainings that do not depend on each other, several at a time, each in a process of its own.

One training leaves cores idle between its steps, and the smaller the images the more, so several
of one thread each end sooner than one after the other of all threads.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import IO, TextIO, TypeVar, cast

import psutil
import torch
from rich.console import Console

from ppfl.errors import DiskFullError, PpflError, RunError, kind_of
from sites.needs import TRAINING_BYTES

Task = TypeVar("Task")
Result = TypeVar("Result")

JOBS_HELP = "trainings at a time; 0: as many as there are cores, and memory for"

Work = Callable[[Task, int, Console], Result]
"""Does a task on so many threads (0: all) and tells a console what it does.

It goes to another process, so it stands in a module and is no closure.
"""


def side_by_side(
    work: Work[Task, Result], tasks: Mapping[str, Task], *, jobs: int, talk: Console
) -> Iterator[Result]:
    """The tasks' results as they come, in any order.

    Args:
        work: is called once for each task.
        tasks: what is to be done, by the names under which it is told.
        jobs: so many at a time; 0: as many as there are cores, and memory for. One at a time is
            done in this process, on all cores.
        talk: what the tasks tell goes there; of several at a time with the task's name before it.

    Raises:
        Exception: the first that a task ended with; the others are ended where they are.
        RunError: the system ended a task's process.
    """
    jobs = min(jobs or _room(), len(tasks))
    if jobs <= 1:
        yield from (work(task, 0, talk) for task in tasks.values())
        return
    threads = max(1, _cores() // jobs)
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),  # torch's threads do not survive a fork
        initializer=_begin,
        initargs=(threads,),
    )
    try:
        running = [
            pool.submit(_tell_and_do, work, task, threads, name, talk.width)
            for name, task in tasks.items()
        ]
        for future in as_completed(running):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "a training was ended from outside, perhaps because there was no memory left",
            hint="go on with --jobs 1; what is done is kept",
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # the pool joins them: of two that join one process, one is early
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _room() -> int:
    """How many trainings at a time this machine has cores and memory for, at least one."""
    return max(1, min(_cores(), psutil.virtual_memory().available // TRAINING_BYTES))


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it, too, and ends this process
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the command was killed: nothing shows any longer what goes on here."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tell_and_do(
    work: Work[Task, Result], task: Task, threads: int, name: str, width: int
) -> Result:
    stream = cast(IO[str], _Named(name, sys.stderr))
    try:
        return work(task, threads, Console(file=stream, width=width))
    except PpflError as error:
        if kind_of(error) is DiskFullError:  # what tells it does not go to another process
            raise DiskFullError(str(error), hint=error.hint) from None
        raise


class _Named(io.TextIOBase):
    """Puts a name before each line. A console writes whole lines, so they do not mix."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream

    def write(self, text: str) -> int:
        """Write whole lines."""
        lines = text.splitlines(keepends=True)
        self._stream.write("".join(f"({self._name}) {line}" for line in lines))
        self._stream.flush()
        return len(text)
