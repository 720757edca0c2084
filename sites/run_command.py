"""`ppfl site run`: the study, from a hospital's side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ppfl.errors import UnreachableError
from ppfl.settings import Connection, SiteFile
from sites.approval import check_approval, check_key
from sites.event_lines import JournalLines, PhaseLines
from sites.printing import talk_of_processes
from sites.reach import check_coordinator
from sites.serve import serve_site


def run_site(
    folder: Annotated[Path, typer.Argument(help="the folder of `ppfl site join`")],
) -> None:
    """Take part in the study that this site has approved, until Ctrl-C.

    Example: ppfl site run alpha
    """
    site_file = folder.resolve() / "site.toml"
    site = SiteFile.read(site_file)
    coordinator = site.connection()
    check_approval(site)
    check_key(site)
    _look_for(coordinator)
    place = site.work / "flower"
    talk_of_processes(f"Logs and status: {place}; what leaves: {site.work}/journal.jsonl")
    serve_site(
        site_file=site_file,
        superlink=coordinator.address,
        authority=coordinator.ca_certificate,
        node_key=coordinator.node_key,
        node_port=coordinator.node_port,
        folder=place,
        each=_telling(site),
    )


def _telling(site: SiteFile) -> Callable[[], None]:
    """What prints a line for all that has happened at the site since it was last called."""
    console = Console(stderr=True)
    phase = PhaseLines(site.work, console)
    lines = JournalLines(site.work / "journal.jsonl", console)

    def look() -> None:
        phase.look()
        lines.look()

    return look


def _look_for(coordinator: Connection) -> None:
    """Find out now what would keep the site from taking part; one that is away may come yet."""
    try:
        check_coordinator(coordinator)
    except UnreachableError as error:
        typer.echo(f"{error}. The site goes on asking", err=True)
