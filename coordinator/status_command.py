"""`ppfl coordinator status` and `stop`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from coordinator.folder import COORDINATOR_FILE
from coordinator.status import Status, read_status
from ppfl.running import stop_running
from ppfl.settings import CoordinatorFile
from sites.printing import AsJson, print_result

_Folder = Annotated[Path, typer.Argument(help="the coordinator's folder")]
_PATIENCE_S = 60.0


def show_status(folder: _Folder, as_json: AsJson = False) -> None:
    """Say what runs, which sites are connected, and how far the study is.

    Example: ppfl coordinator status coordinator
    """
    settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
    print_status(read_status(settings, folder.resolve() / "flower"), as_json=as_json)


def stop_coordinator(folder: _Folder, as_json: AsJson = False) -> None:
    """End the coordinator, in order; the study can go on from its last complete round.

    Example: ppfl coordinator stop coordinator
    """
    CoordinatorFile.read(folder / COORDINATOR_FILE)
    stopped = stop_running(folder.resolve() / "flower", patience_s=_PATIENCE_S)
    print_result({"was_running": stopped}, as_json=as_json)


def print_status(status: Status, *, as_json: bool) -> None:
    """Print what a coordinator does, for people or for programs."""
    if as_json:
        typer.echo(json.dumps(status.to_table()))
        return
    for line in status.to_lines():
        typer.echo(line)
