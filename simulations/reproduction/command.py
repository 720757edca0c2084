"""`ppfl reproduce`: the paper's experiment, and what each way of encrypting X-rays leaks."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.errors import SettingsError
from ppfl.learning.images import load_images
from ppfl.learning.intervals import Interval, accuracy_interval, difference_interval
from ppfl.learning.sources import read_records
from ppfl.report import PAPER, Estimate, RowResult, write_reproduction
from ppfl.xray import write_phantoms
from simulations.progress import RunProgress
from simulations.reproduction.leaks import Leaks, measure_leaks, public_xrays
from simulations.reproduction.rows import (
    MORE,
    ROWS,
    Outcome,
    Predictions,
    Row,
    prepare_row,
    run_row,
    scenario_of,
    site_files,
)
from simulations.scenario import Scenario

_talk = Console(stderr=True)
_QUICK_COUNTS = {"Normal": 240, "Effusion": 240}
_PUBLIC_COUNTS = {"Infiltrate": 100, "Nodule": 100}


def reproduce(
    data: Annotated[Path | None, typer.Option(help="folder or table of X-rays")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="phantoms, a few minutes")] = False,
    more: Annotated[
        bool, typer.Option("--more", help="also code books of 4 bits, and of each site its own")
    ] = False,
    only: Annotated[str, typer.Option(help="some rows, such as a,c")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    out: Annotated[Path, typer.Option(help="folder; what is done there is not repeated")] = Path(
        "runs/reproduce"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train and test on plain X-rays, on the vault, and on cipher images; measure what each leaks.

    Example: ppfl reproduce --data xrays
    """
    if quick == (data is not None):
        raise SettingsError("either --quick or --data FOLDER", hint="--quick draws phantoms")
    rows = _chosen([*ROWS, *(MORE if more else ())], only)
    out.mkdir(parents=True, exist_ok=True)
    data = _draw(out) if data is None else data
    results, pictures, plain = [], {}, None
    for row in rows:
        folder = out / row.key
        _talk.print(f"({row.key}) {row.name}")
        scenario = scenario_of(row, data=data, quick=quick, changes=changes or ())
        outcome, minutes = _train(scenario, folder)
        plain = outcome.predictions if row.key == "a" else plain
        leaks = _leaks(outcome, folder, data)
        results.append(_result(row, outcome, plain, leaks, minutes))
        pictures[row.key] = leaks.pictures
        write_reproduction(
            out, results, pictures, title=_title(quick), about=_about(outcome, quick)
        )
    if as_json:
        typer.echo(json.dumps([result.model_dump() for result in results]))
    else:
        _show(results, out)


def _chosen(rows: Sequence[Row], only: str) -> list[Row]:
    wanted = [key.strip() for key in only.split(",") if key.strip()]
    known = [row.key for row in rows]
    if strange := [key for key in wanted if key not in known]:
        raise SettingsError(f"--only {strange[0]}: rows are {', '.join(known)}")
    return [row for row in rows if row.key in wanted or not wanted]


def _draw(out: Path) -> Path:
    """Where the phantoms lie; those of a class that is not trained on are the attacker's."""
    place = out / "phantoms"
    write_phantoms(place, counts=_QUICK_COUNTS, size=64, seed=2022)
    write_phantoms(place, counts=_PUBLIC_COUNTS, size=64, seed=2022, patients_prefix="pub")
    return place


def _train(scenario: Scenario, folder: Path) -> tuple[Outcome, float]:
    """What a row came to, and the minutes it took, in this run or in the one that did it."""
    spent = folder / "minutes.json"
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    began = time.monotonic()
    prepare_row(scenario, folder)
    with RunProgress(folder, _talk):
        outcome = run_row(folder)
    minutes: float = before or round((time.monotonic() - began) / 60, 2)
    spent.write_text(json.dumps(minutes))
    return outcome, minutes


def _leaks(outcome: Outcome, folder: Path, data: Path) -> Leaks:
    sites = site_files(outcome.study, folder)
    public = public_xrays(outcome.study, data)
    if not len(public):
        # nobody else's X-rays: the attacker is the hospital that is last in the study
        records = read_records(sites[-1].data, classes=outcome.study.classes)
        classes, size = outcome.study.classes, outcome.study.images.size
        public = load_images(records, classes=classes, size=size).images
    return measure_leaks(outcome.study, sites[0], public)


def _result(
    row: Row, outcome: Outcome, plain: Predictions | None, leaks: Leaks, minutes: float
) -> RowResult:
    study, predictions = outcome.study, outcome.predictions
    less = None
    if plain is not None and row.key != "a":
        found = difference_interval(
            plain.correct, plain.groups, predictions.correct, predictions.groups, seed=study.seed
        )
        less = _estimate(found)
    right = accuracy_interval(predictions.correct, predictions.groups, seed=study.seed)
    told = outcome.summary
    return RowResult(
        key=row.key,
        name=row.name,
        encryption=row.encryption,
        size=study.images.size,
        rounds=len(told.rounds),
        train_images=outcome.train_images,
        test_images=len(predictions.labels),
        accuracy=_estimate(right),
        macro_auroc=told.test.get("macro_auroc"),
        chance=_chance(predictions),
        less_than_plain=less,
        leakage=leaks.leakage,
        attacks=leaks.attacks,
        minutes=minutes,
        model_sha256=told.closed.model_sha256 if told.closed else "",
    )


def _chance(predictions: Predictions) -> float:
    """The accuracy of answers as frequent as these, but independent of the image."""
    classes = predictions.probabilities.shape[1]
    images = len(predictions.labels)
    true = np.bincount(predictions.labels, minlength=classes) / images
    given = np.bincount(predictions.probabilities.argmax(axis=1), minlength=classes) / images
    return float(true @ given)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(**asdict(interval))


def _title(quick: bool) -> str:
    return "Training on encrypted X-rays" + (", on phantoms" if quick else "")


def _about(outcome: Outcome, quick: bool) -> list[str]:
    study, started = outcome.study, outcome.summary.started
    what = "synthetic phantoms, which say nothing about patients" if quick else "X-rays"
    said = [
        f"{len(study.federation.sites)} simulated hospitals share {what} of the classes "
        f"{', '.join(study.classes)}; patients are tested whom no hospital trained on."
    ]
    if started:
        said.append(f"Updates were protected by {started.protection}.")
    return said


def _show(results: Sequence[RowResult], out: Path) -> None:
    table = Table(box=box.SIMPLE_HEAD, caption="brackets: 95 %, bootstrap over patients")
    for heading in ("", "the network sees", "accuracy, %", "less than (a)", "chance, %", "min"):
        table.add_column(heading, justify="left" if "sees" in heading else "right")
    for name, accuracy in PAPER.items():
        table.add_row("", f"the paper: {name}", f"{100 * accuracy:.1f}", "", "", "")
    for row in results:
        less = row.less_than_plain
        table.add_row(
            row.key,
            row.name,
            row.accuracy.percent(),
            less.percent(signed=True) if less else "",
            f"{100 * row.chance:.1f}",
            f"{row.minutes:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"page: {out / 'reproduction.html'}", soft_wrap=True)
