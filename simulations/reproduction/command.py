"""`ppfl reproduce`: the paper's experiment, and what each way of encrypting X-rays leaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.errors import SettingsError
from ppfl.learning.sources import ImageRecord
from ppfl.report import PAPER, RowResult, write_reproduction
from ppfl.settings import TrainingOptions
from ppfl.xray import write_phantoms
from simulations.outcome import prepare_or_resume, run_to_end
from simulations.progress import RunProgress
from simulations.reproduction.leaks import choose_public
from simulations.reproduction.results import compare, finish_row, read_pictures, read_row
from simulations.reproduction.rows import MORE, ROWS, Row, row_scenario
from simulations.scenario import Scenario
from simulations.side_by_side import JOBS_HELP, side_by_side
from sites.printing import AsJson, tell_left_out

_talk = Console(stderr=True)
_QUICK_COUNTS = {"Normal": 240, "Effusion": 240}
_PUBLIC_COUNTS = {"Infiltrate": 100, "Nodule": 100}


def reproduce(
    data: Annotated[Path | None, typer.Option(help="folder or table of X-rays")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="phantoms, a few minutes")] = False,
    more: Annotated[
        bool, typer.Option("--more", help="also the highest bytes, and each site its own ρ")
    ] = False,
    only: Annotated[str, typer.Option(help="some rows, such as a,c")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    jobs: Annotated[int, typer.Option(min=0, help=JOBS_HELP)] = 0,
    out: Annotated[Path | None, typer.Option(help="what is done there is not repeated")] = None,
    as_json: AsJson = False,
) -> None:
    """Train and test on plain X-rays, on the vault, and on cipher images; measure what each leaks.

    Example: ppfl reproduce --data xrays
    """
    if quick == (data is not None):
        raise SettingsError("either --quick or --data FOLDER", hint="--quick draws phantoms")
    rows = _chosen(more, only)
    out = out or Path("runs") / ("reproduce-quick" if quick else "reproduce")
    out.mkdir(parents=True, exist_ok=True)
    data = _draw(out) if data is None else data
    scenarios = {
        row.key: row_scenario(row, data=data, quick=quick, changes=changes or ())
        for row in (*ROWS, *MORE)
    }
    for key, scenario in scenarios.items():
        _check_kept(scenario, out / key)
    first = scenarios[rows[0].key].study
    tell_left_out(data, first["classes"])
    public = choose_public(data, first["classes"], seed=first["seed"])
    tasks = {row.key: _Task(row, scenarios[row.key], out / row.key, public) for row in rows}
    for _ in side_by_side(_do_row, tasks, jobs=jobs, talk=_talk):
        results = _write(out, quick=quick, public=public)
    _talk.print(f"{out}: pages and pictures show an X-ray of the data; they are for you alone")
    if as_json:
        typer.echo(json.dumps([result.model_dump() for result in results]))
    else:
        _show(results, out)


@dataclass(frozen=True, slots=True)
class _Task:
    row: Row
    scenario: Scenario
    folder: Path
    public: Sequence[ImageRecord]


def _do_row(task: _Task, threads: int, talk: Console) -> None:
    """Train a row and measure what it leaks, unless that was done before."""
    talk.print(f"row {task.row.key}: {task.row.name}")
    prepare_or_resume(task.scenario, task.folder, threads=threads)
    if read_row(task.folder) is not None:
        return
    if task.scenario.study["images"].get("cipher") == "fresh_randomness":
        talk.print("encrypting each pixel by itself: a minute for a million")
    with RunProgress(task.folder, talk):
        outcome = run_to_end(task.folder)
    talk.print("measuring what it leaks")
    finish_row(task.row, outcome, task.folder, task.public)


def _chosen(more: bool, only: str) -> list[Row]:
    every = {row.key: row for row in (*ROWS, *MORE)}
    wanted = [key.strip() for key in only.split(",") if key.strip()]
    if strange := [key for key in wanted if key not in every]:
        raise SettingsError(f"--only {strange[0]}: rows are {', '.join(every)}")
    if wanted:
        return [row for key, row in every.items() if key in wanted]
    return [*ROWS, *(MORE if more else ())]


def _check_kept(scenario: Scenario, folder: Path) -> None:
    """That a row which is done belongs into one table with those that are asked for now.

    Raises:
        SettingsError: it was trained otherwise.
    """
    kept = read_row(folder)
    if kept is None:
        return
    study, training = scenario.study, TrainingOptions.model_validate(scenario.study["training"])
    images = (tuple(study["classes"]), study["images"]["size"])
    steps = (training.rounds, training.local_epochs, training.learning_rate)
    of_row = (kept.classes, kept.size), (kept.rounds, kept.local_epochs, kept.learning_rate)
    if (images, steps) != of_row:
        raise SettingsError(
            f"{folder}: holds a row that was trained with other settings",
            hint="name another folder with --out, or give the same --set as for that row",
        )


def _draw(out: Path) -> Path:
    """Where the phantoms lie; those of classes that are not trained on are the attacker's."""
    place = out / "phantoms"
    write_phantoms(place, counts=_QUICK_COUNTS, size=64, seed=2022)
    write_phantoms(place, counts=_PUBLIC_COUNTS, size=64, seed=2022, patients_prefix="pub")
    return place


def _write(out: Path, *, quick: bool, public: Sequence[ImageRecord]) -> list[RowResult]:
    """The results of all rows that are done in the folder, after the page on them was written."""
    done = [out / row.key for row in (*ROWS, *MORE)]
    found = [(folder, result) for folder in done if (result := read_row(folder)) is not None]
    results = compare(found)
    write_reproduction(
        out,
        results,
        {folder.name: read_pictures(folder) for folder, _ in found},
        title="Training on encrypted X-rays" + (", on phantoms" if quick else ""),
        about=_about(results[0], quick=quick, public=public),
    )
    return results


def _about(result: RowResult, *, quick: bool, public: Sequence[ImageRecord]) -> list[str]:
    what = "synthetic phantoms, which say nothing about patients," if quick else "X-rays"
    classes = sorted({record.label for record in public})
    attacker = (
        f"{len(public)} X-rays of other classes ({', '.join(classes)}) and other patients"
        if public
        else "the X-rays of the hospital named last, because the data has none of other classes"
    )
    return [
        f"{result.sites} simulated hospitals share {what} of the classes "
        f"{', '.join(result.classes)}. Tested are patients whom no hospital trained on. Updates "
        f"were protected by {result.protection}.",
        f"The attacker looks at up to 200 X-rays of one hospital and has beforehand {attacker}.",
    ]


def _show(results: Sequence[RowResult], out: Path) -> None:
    table = Table(box=box.SIMPLE_HEAD, caption="brackets: 95 %, bootstrap over patients")
    table.add_column("")
    table.add_column("the network sees")
    for heading in ("accuracy, %", "chance, %", "minutes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, accuracy in PAPER.items():
        table.add_row("", f"the paper: {name}", f"{100 * accuracy:.1f}", "", "")
    for row in results:
        figures = (row.accuracy.percent(), f"{100 * row.chance:.1f}", f"{row.minutes:.1f}")
        table.add_row(row.key, row.name, *figures)
    console = Console(markup=False)
    console.print(table)
    console.print(f"page: {out / 'reproduction.html'}", soft_wrap=True)
