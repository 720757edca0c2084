"""`ppfl coordinator start`: what `run` does, in the background."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import IO, Annotated

import typer

from coordinator.folder import COORDINATOR_FILE
from coordinator.status import Status, read_status
from coordinator.status_command import print_status
from ppfl.errors import RunError
from ppfl.log_files import BoundedLog
from ppfl.running import read_running
from ppfl.settings import CoordinatorFile
from sites.flower import flower_program
from sites.printing import AsJson

_PATIENCE_S = 120.0  # what a killed coordinator left may keep its ports for some seconds
_POLL_S = 0.5


def start_coordinator(
    folder: Annotated[Path, typer.Argument(help="the coordinator's folder")],
    as_json: AsJson = False,
) -> None:
    """Start `run` in the background, and say what `status` says when all of it runs.

    Ends with the exit code of `run`, and what it said, if it ends at once.

    Example: ppfl coordinator start coordinator
    """
    settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
    place = folder.resolve() / "flower"
    if read_running(place).pid is not None:
        typer.echo("The coordinator runs already", err=True)
    else:
        place.mkdir(exist_ok=True, mode=0o700)
        log = BoundedLog(place / "coordinator.log")
        with log.open() as output:
            began = output.tell()
            process = _spawn(folder.resolve(), output)
        typer.echo(f"What it says from now on: {log.path}", err=True)
        if not _comes_up(process, settings, place):
            with log.path.open("rb") as file:
                file.seek(began)
                said = file.read().decode(errors="replace")
            code = process.returncode  # where the disk is full it may be all that there is
            untold = f"It ended with {code}, and could not write why: docs/errors.md lists codes\n"
            typer.echo(said or untold, nl=False, err=True)
            _end_as(code, settings, place)
    print_status(read_status(settings, place), as_json=as_json)


def _spawn(folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """`run`, which outlives this process and its terminal."""
    return subprocess.Popen(  # noqa: S603 - ppfl itself
        [flower_program("ppfl"), "coordinator", "run", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _comes_up(process: subprocess.Popen[bytes], settings: CoordinatorFile, place: Path) -> bool:
    """Whether all that `run` starts runs and SuperLink answers, or else `run` has ended.

    Raises:
        RunError: neither in time; it goes on.
    """
    until = time.monotonic() + _PATIENCE_S
    while process.poll() is None:
        if _is_up(read_status(settings, place)):
            return True
        if time.monotonic() > until:
            raise RunError(
                f"process {process.pid} runs, but not all of its programs after "
                f"{_PATIENCE_S:g} s; it goes on trying",
                hint=f"{place} has their logs; `ppfl coordinator stop` ends them",
            )
        time.sleep(_POLL_S)
    return False


def _is_up(status: Status) -> bool:
    return status.connected is not None and all(
        program["state"] == "running" for program in status.running.programs
    )


def _end_as(code: int, settings: CoordinatorFile, place: Path) -> None:
    """End as `run` has ended, unless it had come to the study's end.

    Raises:
        Exit: with its exit code.
        RunError: it was ended before all of it ran.
    """
    if code > 0:
        raise typer.Exit(code)
    if code < 0 or read_status(settings, place).state != "closed":
        raise RunError("somebody ended it before all of it ran", hint="ppfl coordinator start")
