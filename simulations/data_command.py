"""`ppfl data`: what a folder of X-rays holds, before anyone trains on it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.learning.check import DicomReport, FolderReport, check_folder
from ppfl.settings import Study
from sites.printing import AsJson, below, progress_bar

_MOST = 10  # files that are named of each kind; --json names all

data = typer.Typer(no_args_is_help=True, help="Look at folders of X-rays.")


@data.callback()
def _group() -> None:
    """Keep `check` a command of its own, though it is the only one."""


@data.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="a folder or a table (CSV)")],
    study: Annotated[Path | None, typer.Option(help="study file whose classes count")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a folder of X-rays holds, what of it a study would leave out, and what to mend.

    Example: ppfl data check xrays --study study.toml
    """
    classes = Study.read(study).classes if study else ()
    with progress_bar("reading") as progress:
        report = check_folder(folder, classes=classes, progress=progress)
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str))
    else:
        _show(report, folder, Console(soft_wrap=True, markup=False, highlight=False))


def _show(report: FolderReport, folder: Path, out: Console) -> None:
    images = sum(report.classes.values())
    out.print(
        f"{images:,} X-rays of {report.groups:,} patients or other groups, the largest of "
        f"{report.largest_group:,}; {report.layout}",
    )
    for heading, counts in (("class", report.classes), ("site", report.sites)):
        if counts:
            table = Table(box=box.SIMPLE_HEAD)
            table.add_column(heading)
            table.add_column("X-rays", justify="right")
            for name, count in counts.items():
                table.add_row(name, f"{count:,}")
            out.print(table)
    small, large = (f"{width} × {height}" for width, height in report.sizes)
    sizes = small if small == large else f"{small} to {large}"
    lines = {
        "pixels": f"{sizes}; stored as {_listed(report.modes)}",
        "left out by the study": _listed(report.left_out),
        "DICOM": _dicom(report.dicom) if report.dicom.files else "",
    }
    for name, text in lines.items():
        if text:
            out.print(f"{name}: {text}")
    _name(out, "the same picture, to the last pixel", _joined(report.duplicates, folder))
    _name(out, "of these, under two classes", _joined(report.contradictions, folder))
    _name(out, "cannot be read", [below(folder, path) for path in report.unreadable])
    _name(out, "say that text is burnt in", [below(folder, path) for path in report.annotated])
    out.print("What to do:" if report.warnings else "Nothing to mend.")
    for warning in report.warnings:
        out.print(f"- {warning}")


def _dicom(told: DicomReport) -> str:
    parts = {
        "kinds": told.modalities,
        "views": told.views,
        "text burnt in": told.burned_in,
        "attributes that identify": told.identifying,
    }
    counted = "; ".join(f"{name}: {_listed(counts)}" for name, counts in parts.items() if counts)
    return f"{told.files:,} files; {counted}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def _joined(copies: Iterable[Sequence[Path]], folder: Path) -> list[str]:
    return [" = ".join(below(folder, path) for path in same) for same in copies]


def _name(out: Console, what: str, names: Sequence[str]) -> None:
    if not names:
        return
    out.print(f"{what}: {len(names):,}")
    for name in names[:_MOST]:
        out.print(f"  {name}")
    if len(names) > _MOST:
        out.print(f"  … and {len(names) - _MOST:,} more; --json names all")
