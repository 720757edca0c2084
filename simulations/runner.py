"""Runs a prepared federation on one machine: in Flower's simulation, or in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from coordinator.rounds import Coordinator
from ppfl.errors import RunError
from ppfl.federation import JournalReader
from ppfl.federation.journal import StudyClosed, StudyFailed
from ppfl.guard import Guard
from ppfl.log_files import BoundedLog
from ppfl.report import leave_report
from ppfl.settings import Study
from simulations.local_grid import LocalGrid
from sites.bundle import write_app
from sites.client_app import app as client_app
from sites.flower import flower_environment, flower_program
from sites.needs import TRAINING_BYTES

_ACTOR_BYTES = TRAINING_BYTES
_FLOWER_BYTES = 1_500_000_000  # Ray's and Flower's own processes
_POLL_S = 0.5
_START_S = 60.0


def run_in_process(folder: Path, *, report: bool = True) -> None:
    """Run the study in this process, without Ray, from its first or its last complete round.

    Without ``report`` no report.html is drawn, which takes longer than a short study's rounds.

    Raises:
        PpflError: the study cannot go on; the folder keeps all complete rounds.
    """
    study = Study.read(folder / "study.toml")
    os.environ["PPFL_RUN"] = str(folder.resolve())
    grid = LocalGrid(client_app, sites=len(study.federation.sites))
    try:
        Coordinator(grid, folder).run(resume=True)
    finally:
        del os.environ["PPFL_RUN"]
        if report:
            leave_report(folder)


def run_in_flower(folder: Path, *, actors: int) -> None:
    """Run the study in Flower's simulation, with processes of its own.

    They end with it, also where this process is killed.

    Args:
        folder: the run's folder.
        actors: sites that work at one time, each in a process.

    Raises:
        RunError: memory does not suffice, Flower did not start, or the study failed.
    """
    check_memory(actors)
    study = Study.read(folder / "study.toml")
    home = folder.resolve() / "flower"
    guard = Guard()
    environment = flower_environment(home) | {
        "PPFL_RUN": str(folder.resolve()),
        "OMP_NUM_THREADS": str(share_of_cores(actors)),
        **guard.mark,
    }
    port = _free_port()
    write_app(home / "app")
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    bounded = BoundedLog(home / "superlink.log")
    log = bounded.open()
    guard.watch()
    link = subprocess.Popen(  # noqa: S603 - our own environment's program
        [
            flower_program("flower-superlink"),
            *("--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)),
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for_port(port, link)
        sites, cores = len(study.federation.sites), os.cpu_count() or 1
        subprocess.run(  # noqa: S603 - our own environment's program
            [
                flower_program("flwr"),
                *("run", str(home / "app"), "here", "--federation-config"),
                f"num-supernodes={sites} client-resources-num-cpus={max(1, cores // actors)} "
                f"init-args-num-cpus={cores}",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
        _follow(folder, link, bounded, guard)
    except subprocess.CalledProcessError:
        raise RunError(f"Flower refused the run; {bounded.path} says why") from None
    finally:
        guard.end()
        link.wait()
        log.close()
        leave_report(folder)


def check_memory(actors: int) -> None:
    """Make sure that so many sites can work at one time.

    Raises:
        RunError: they cannot; the message gives what is free and what is needed.
    """
    needed, free = _FLOWER_BYTES + actors * _ACTOR_BYTES, psutil.virtual_memory().available
    if free < needed:
        raise RunError(
            f"{free / 1e9:.1f} GB of memory are free, about {needed / 1e9:.1f} GB are needed for "
            f"{actors} sites at one time",
            hint="fewer --actors, or --in-process",
        )


def share_of_cores(actors: int) -> int:
    """Threads of each of so many sites that work at one time."""
    return max(1, len(os.sched_getaffinity(0)) // actors)


def _follow(folder: Path, link: subprocess.Popen[bytes], log: BoundedLog, guard: Guard) -> None:
    """Watch the journal until the study closes or fails."""
    journal = JournalReader(folder / "journal.jsonl")
    journal.skip()  # runs before a --resume
    before, began = journal.offset, time.monotonic()
    while True:
        guard.watch()
        log.bound()
        alive = link.poll() is None
        for line in journal.read():
            match line.event():
                case StudyClosed():
                    return
                case StudyFailed(sentence=sentence):
                    hint = f"ppfl simulate --resume {folder} goes on from here"
                    raise RunError(sentence, hint=hint)
        silent = journal.offset == before and time.monotonic() - began > 3 * _START_S
        if not alive or silent:
            raise RunError(f"Flower ended; {log.path} says why")
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, link: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and link.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(_POLL_S / 5)
    raise RunError("Flower's SuperLink did not start within a minute")
