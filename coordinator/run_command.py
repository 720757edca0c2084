"""`ppfl coordinator run`: the study, from the coordinator's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.folder import COORDINATOR_FILE, node_keys, prepare_run
from coordinator.serve import CoordinatorPlace, serve_coordinator
from ppfl.crypto.certificates import check_server
from ppfl.settings import CoordinatorFile
from sites.event_lines import JournalLines
from sites.printing import AsJson, print_result, talk_of_processes


def run_coordinator(
    folder: Annotated[Path, typer.Argument(help="the coordinator's folder")],
    as_json: AsJson = False,
) -> None:
    """Run the study with its sites until it is closed; Ctrl-C ends it before, and it can go on.

    Example: ppfl coordinator run coordinator
    """
    settings = CoordinatorFile.read(folder / COORDINATOR_FILE)
    check_server(
        settings.certificate,
        settings.certificate_key,
        authority=settings.ca_certificate,
        host=settings.host,
    )
    place = CoordinatorPlace(
        folder=folder.resolve() / "flower",
        run=prepare_run(settings),
        listen=settings.listen,
        port=settings.port,
        superlink_port=settings.superlink_port,
        certificate=settings.certificate,
        certificate_key=settings.certificate_key,
        authority=settings.ca_certificate,
        journal_key=settings.journal_key,
        sites=node_keys(settings),
        limits=settings.gateway,
        dashboard_port=settings.dashboard_port,
    )
    places = f"Logs and status: {place.folder}; the record: {place.run}/journal.jsonl"
    talk_of_processes(f"{places}\n{place.dashboard}" if place.dashboard_port else places)
    lines = JournalLines(place.run / "journal.jsonl", Console(stderr=True))
    closed = serve_coordinator(place, each=lines.look)
    lines.look()
    result = {"closed": closed, "journal": str(place.run / "journal.jsonl")}
    print_result(result, as_json=as_json)
