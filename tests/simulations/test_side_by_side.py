"""Trainings side by side: in processes of their own, told by name, ended together."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from ppfl.errors import ModelError, PpflError, RunError, exit_code_of
from simulations.side_by_side import side_by_side
from tests.coordinator.gateway_in_threads import wait_until


def threads_of(task: str, threads: int, talk: Console) -> tuple[str, int, int, int]:
    talk.print(f"begins\nand {task}")
    return task, os.getpid(), threads, torch.get_num_threads()


def fail(task: Path, _threads: int, _talk: Console) -> None:
    if task.name == "bad":
        raise RunError("the disk is full", hint="make room")
    task.touch()
    time.sleep(600)


_TASKS = {"x": "one", "y": "two", "z": "three"}


def test_each_is_done_once_on_its_share_of_the_cores(capfd: pytest.CaptureFixture[str]) -> None:
    talk = Console(stderr=True)
    results = list(side_by_side(threads_of, _TASKS, jobs=2, talk=talk))
    cores = len(os.sched_getaffinity(0))
    assert sorted(task for task, *_ in results) == sorted(_TASKS.values())
    for _, process, threads, used in results:
        assert process != os.getpid()
        assert threads == used == max(1, cores // 2)
    told = capfd.readouterr().err.splitlines()
    for name, task in _TASKS.items():
        assert f"({name}) begins" in told
        assert f"({name}) and {task}" in told


def test_one_at_a_time_is_done_here_in_order_on_all_cores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = list(side_by_side(threads_of, _TASKS, jobs=1, talk=Console(stderr=True)))
    assert [(task, process, n) for task, process, n, _ in results] == [
        (task, os.getpid(), 0) for task in _TASKS.values()
    ]
    assert capsys.readouterr().err.splitlines()[:2] == ["begins", "and one"]


def test_the_first_failure_is_told_and_ends_the_others(tmp_path: Path) -> None:
    tasks = {name: tmp_path / name for name in ("slow", "bad")}
    with pytest.raises(RunError, match="the disk is full") as caught:
        list(side_by_side(fail, tasks, jobs=2, talk=Console(stderr=True)))
    assert caught.value.hint == "make room"
    assert not multiprocessing.active_children()


def fill_the_disk(task: str, _threads: int, _talk: Console) -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise ModelError(f"{task}: {error.strerror}") from None


def be_killed(_task: str, _threads: int, _talk: Console) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_full_disk_is_one_in_another_process_too() -> None:
    with pytest.raises(PpflError, match="No space left") as caught:
        list(side_by_side(fill_the_disk, _TASKS, jobs=2, talk=Console(stderr=True)))
    assert exit_code_of(caught.value) == 60


def test_a_training_that_the_system_ends_is_said() -> None:
    with pytest.raises(RunError, match="ended from outside") as caught:
        list(side_by_side(be_killed, _TASKS, jobs=2, talk=Console(stderr=True)))
    assert "--jobs 1" in caught.value.hint
    assert not multiprocessing.active_children()


_COMMAND = """
import sys
from pathlib import Path
from rich.console import Console
from simulations.side_by_side import side_by_side
from tests.simulations.test_side_by_side import fail
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    list(side_by_side(fail, {"a": folder / "a", "b": folder / "b"}, jobs=2, talk=Console()))
"""


def test_a_command_that_is_killed_leaves_no_training_behind(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(_COMMAND)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists(), seconds=120)
    family = psutil.Process(command.pid).children(recursive=True)
    assert len(family) >= 2
    command.kill()
    command.wait(60)
    wait_until(lambda: not any(process.is_running() for process in family))
