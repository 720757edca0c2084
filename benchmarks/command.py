"""`ppfl bench`: measures every system in one run, and leaves figures, tables and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figure import draw_scaling, draw_systems
from benchmarks.measure import choose_candidates, measure_alone
from benchmarks.results import (
    CAPTION,
    HEADINGS,
    Bench,
    Skipped,
    describe_machine,
    scaling_tables,
    significant,
)
from benchmarks.scaling import measure_scaling
from benchmarks.systems import build_workload

_COLUMNS = 100
_talk = Console(stderr=True)


def bench(
    runs: Annotated[int, typer.Option(help="of which the median is taken", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="cores to use; 0: all of them", min=0)] = 0,
    systems: Annotated[str, typer.Option(help="names, with commas; none: all")] = "",
    key_bits: Annotated[int, typer.Option(help="bits of the Paillier keys")] = 3072,
    architecture: Annotated[
        str, typer.Option(help="a classifier of torchvision.models")
    ] = "mobilenet_v2",
    scaling: Annotated[bool, typer.Option(help="how cost grows as well")] = True,
    large: Annotated[bool, typer.Option(help="measure an update of 10^8 values too")] = False,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Measure what it costs to seal, add and open one update, beside other systems.

    Example: ppfl bench --systems ppfl-native,ppfl-gmp,tenseal-ckks --no-scaling
    """
    candidates = choose_candidates([name for name in systems.split(",") if name])
    threads = threads or len(os.sched_getaffinity(0))
    out.mkdir(parents=True, exist_ok=True)
    measured, skipped = [], []
    for candidate in candidates:
        _talk.print(f"Measuring {candidate.label}")
        row = measure_alone(
            candidate, architecture=architecture, key_bits=key_bits, threads=threads, runs=runs
        )
        if isinstance(row, Skipped):
            _talk.print(f"  skipped: {row.reason}")
            skipped.append(row)
        else:
            measured.append(row)
    growth = None
    if scaling:
        _talk.print("Measuring how cost grows")
        growth = measure_scaling(
            architecture=architecture, key_bits=key_bits, threads=threads, large=large
        )
    result = Bench(
        architecture=architecture,
        parameters=build_workload(architecture, key_bits=key_bits, threads=threads).parameters,
        key_bits=key_bits,
        threads=threads,
        runs=runs,
        machine=describe_machine(),
        measured=tuple(measured),
        skipped=tuple(skipped),
        scaling=growth,
    )
    files = _write(result, out)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        _show(result, files)


def _write(result: Bench, folder: Path) -> list[Path]:
    """The files, written."""
    texts = {
        "bench.json": json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n",
        "bench.md": result.to_markdown(),
        "bench.svg": draw_systems(result),
    }
    if result.scaling is not None:
        texts["scaling.svg"] = draw_scaling(result.scaling)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _show(result: Bench, files: Sequence[Path]) -> None:
    out = Console()
    if not out.is_terminal:
        out = Console(width=_COLUMNS)  # or rich would cut a table in a pipe at 80
    out.print(result.title())
    out.print(_table(HEADINGS, [row.cells() for row in result.measured], caption=CAPTION))
    for row in result.skipped:
        out.print(f"{row.label}: skipped: {row.reason}")
    for ratio in result.ratios():
        out.print(f"{ratio.what}: {significant(ratio.ratio)}")
    if result.scaling is not None:
        for heading, headings, rows in scaling_tables(result.scaling):
            out.print(_table(headings, rows, title=heading))
    for file in files:
        out.print(str(file), soft_wrap=True)


def _table(
    headings: tuple[str, ...],
    rows: list[tuple[str, ...]],
    *,
    caption: str | None = None,
    title: str | None = None,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, caption=caption, title_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
