"""`ppfl site run`: the study, from a hospital's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppfl.errors import SettingsError, UnreachableError
from ppfl.settings import Connection, SiteFile
from sites.approval import check_approval, check_key
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
    if site.coordinator is None:
        raise SettingsError(f"{site_file}: names no coordinator", hint="join with a kit first")
    check_approval(site)
    check_key(site)
    _look_for(site.coordinator)
    place = site.work / "flower"
    talk_of_processes(f"Logs and status: {place}; what leaves: {site.work}/journal.jsonl")
    serve_site(
        site_file=site_file,
        superlink=site.coordinator.address,
        authority=site.coordinator.ca_certificate,
        node_key=site.coordinator.node_key,
        node_port=site.coordinator.node_port,
        folder=place,
    )


def _look_for(coordinator: Connection) -> None:
    """Find out now what would keep the site from taking part; one that is away may come yet."""
    try:
        check_coordinator(coordinator)
    except UnreachableError as error:
        typer.echo(f"{error}. The site goes on asking", err=True)
