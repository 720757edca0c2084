"""`ppfl runs`: which runs there are, what one came to, and several side by side."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from coordinator.dashboard.runs import Runs
from coordinator.run_comparison import RunRecord, differing, figures_of, read_record, side_by_side
from coordinator.summary_table import print_summary
from ppfl.errors import SettingsError
from sites.printing import AsJson

_DIGEST = re.compile("[0-9a-f]{64}")

runs = typer.Typer(no_args_is_help=True, help="List, show and compare runs.")


@runs.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="holds runs, or coordinators' folders")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """Say which runs a folder holds, and how far each is.

    Example: ppfl runs list runs
    """
    found = Runs(folder)
    found.look()  # once: of a long journal its end, which says how far it is
    rows = sorted((run.to_overview() for run in found), key=lambda row: -row["last"])
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns are few
    for heading in ("run", "study", "state", "rounds", "sites", "accuracy", "last event"):
        table.add_column(heading, no_wrap=heading != "run", overflow="fold")
    for row in rows:
        accuracy, last = row["accuracy"], row["last"]
        table.add_row(
            row["name"],
            row["study"],
            row["state"],
            f"{row['complete']} of {row['rounds']}" if row["rounds"] else "",
            str(row["sites"] or ""),
            "" if accuracy is None else f"{accuracy:.3f}",
            f"{datetime.fromtimestamp(last).astimezone():%Y-%m-%d %H:%M}" if last else "",
        )
    out = Console(markup=False)
    out.print(table if rows else f"{folder}: no runs", soft_wrap=not rows)
    for row in rows:
        if row["trouble"]:
            out.print(f"{row['name']}: {row['trouble']}", soft_wrap=True)


@runs.command("show")
def show_run(
    run: Annotated[Path, typer.Argument(help="the run's folder")], as_json: AsJson = False
) -> None:
    """Show a run's rounds, what it came to, and the study's settings.

    Example: ppfl runs show runs/covid
    """
    record = read_record(run)
    if as_json:
        typer.echo(json.dumps(record.summary.to_dict() | {"settings": record.settings}))
        return
    out = Console(markup=False)
    begun = record.summary.started
    if begun:
        out.print(
            f"study {begun.study}, run {begun.run}, {begun.time.astimezone():%Y-%m-%d %H:%M}; "
            f"{begun.protection}",
            soft_wrap=True,
        )
    if earlier := record.summary.earlier_runs:
        out.print(f"the last of {earlier + 1} runs in this journal")
    print_summary(record.summary, out)
    if record.summary.failed:
        out.print(f"broke off: {record.summary.failed.sentence}")
    _print_notes([record], out)
    if record.settings:
        _print_side_by_side([record], {name: [v] for name, v in record.settings.items()}, out)


@runs.command("compare")
def compare_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="two folders or more")],
    as_json: AsJson = False,
) -> None:
    """Show runs side by side: metrics, cost, and the settings and versions that differ.

    Example: ppfl runs compare runs/covid runs/covid-prox
    """
    if len(folders) < 2:
        raise SettingsError("ppfl runs compare: name two runs or more")
    records = [read_record(folder) for folder in folders]
    figures = side_by_side([figures_of(record.summary) for record in records])
    told = all(record.settings for record in records)  # or each setting would seem to differ
    settings = differing([record.settings for record in records]) if told else {}
    versions = differing([_versions(record) for record in records])
    if as_json:
        named = [str(record.folder) for record in records]
        found = {"runs": named, "figures": figures, "settings": settings, "versions": versions}
        typer.echo(json.dumps(found))
        return
    out = Console(markup=False)
    _print_side_by_side(records, figures, out)
    _print_notes(records, out)
    if settings or versions:
        out.print("settings and versions that differ:")
        _print_side_by_side(records, settings | versions, out)
    elif told:
        out.print("equal settings")


def _print_notes(records: list[RunRecord], out: Console) -> None:
    for record in records:
        for note in record.notes:
            out.print(f"note: {note}", soft_wrap=True)


def _versions(record: RunRecord) -> dict[str, str]:
    begun = record.summary.started
    return {f"version of {name}": one for name, one in begun.versions.items()} if begun else {}


def _print_side_by_side(records: list[RunRecord], rows: dict[str, list[Any]], out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for record in records:
        table.add_column(str(record.folder), justify="right", overflow="fold")
    for name, values in rows.items():
        table.add_row(name, *map(_readable, values))
    out.print(table)


def _readable(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)[:12] if _DIGEST.fullmatch(str(value)) else str(value)
