"""`ppfl export`: a run's figures for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppfl.report.exports import Export
from sites.printing import AsJson, print_result


def export_run(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    as_tables: Annotated[
        bool, typer.Option("--csv", help="tables of rounds, classes and sites (the default)")
    ] = False,
    as_events: Annotated[
        bool, typer.Option("--tensorboard", help="event files for TensorBoard")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="where to, in place of the run's folder")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's figures as files for other programs, from its journal alone.

    A run that goes on is written as far as it is.

    Example: ppfl export runs/covid --csv --tensorboard --out figures
    """
    export, folder = Export(run / "journal.jsonl"), out or run
    result: dict[str, object] = {"rounds": len(export.rounds)}
    if as_tables or not as_events:
        result["tables"] = [str(path) for path in export.write_tables(folder)]
    if as_events:
        result["tensorboard"] = str(export.write_event_files(folder / "tensorboard"))
    print_result(result, as_json=as_json)
