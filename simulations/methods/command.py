"""`ppfl compare-methods`: ways to train, on hospitals that differ, in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ppfl.errors import SettingsError
from ppfl.learning.sources import ImageRecord, read_records, write_manifest
from ppfl.report import CellResult, write_methods
from ppfl.xray import Scanner, write_phantoms
from simulations.methods.cells import cells_done, run_cell
from simulations.methods.methods import METHODS, SCENARIOS, choose_methods
from simulations.scenario import read_scenario, scenario_name
from simulations.tables import figure_table

_talk = Console(stderr=True)
_QUICK_METHODS = "pooled,fedavg,fedbn"
_QUICK_SCENARIOS = ("iid", "natural")
_QUICK = (
    *('classes=["Normal", "Effusion"]', "size=64", "architecture=shufflenet_v2_x0_5"),
    *("start=seed", "rounds=3", "local_epochs=8", "learning_rate=3e-3", "mean_xray_size=0"),
)
_QUICK_HOSPITALS = {
    "a": ({"Normal": 60, "Effusion": 20}, Scanner()),
    "b": ({"Normal": 20, "Effusion": 60}, Scanner(gamma=1.4, contrast=0.8)),
    "c": ({"Normal": 30, "Effusion": 30}, Scanner(contrast=1.3, noise=8.0)),
}


def compare_methods(
    data: Annotated[Path | None, typer.Option(help="folder or table of X-rays")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="phantoms, about two minutes")] = False,
    methods: Annotated[str, typer.Option(help="some of them, such as fedavg,fedbn")] = "",
    scenarios: Annotated[
        str, typer.Option(help="some of them, such as iid,natural, or TOML files")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="rounds of each training", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="side of the input, in pixels")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    out: Annotated[Path | None, typer.Option(help="what is done there is not repeated")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train every method in every scenario, under encryption, and write one table.

    Example: ppfl compare-methods --data xrays --scenarios iid,natural
    """
    if quick == (data is not None):
        raise SettingsError("either --quick or --data FOLDER", hint="--quick draws phantoms")
    chosen = choose_methods(methods or (_QUICK_METHODS if quick else ""))
    names = [name.strip() for name in scenarios.split(",") if name.strip()]
    names = names or list(_QUICK_SCENARIOS if quick else SCENARIOS)
    common = [
        *(_QUICK if quick else ("size=96", "mean_xray_size=0")),
        *([f"size={size}"] if size is not None else ()),
        *([f"rounds={rounds}"] if rounds is not None else ()),
        *(changes or ()),
    ]
    out = out or Path("runs") / ("compare-methods-quick" if quick else "compare-methods")
    out.mkdir(parents=True, exist_ok=True)
    data = _draw(out) if data is None else data
    cells = {
        (name, method.key): read_scenario(name, data=data, changes=[*common, *method.changes])
        for name in names
        for method in chosen
    }
    titles = {name: scenario_name(name) for name in names}
    results: list[CellResult] = []
    for number, ((name, key), scenario) in enumerate(cells.items(), start=1):
        method = next(method for method in chosen if method.key == key)
        _talk.print(f"{number} of {len(cells)}: {method.name}, {titles[name]}")
        run_cell(method, scenario, titles[name], out / titles[name] / key, _talk)
        results = cells_done(out, [*dict.fromkeys([*SCENARIOS, *titles.values()])], METHODS)
        write_methods(out, results, title=_title(quick))
    if as_json:
        typer.echo(json.dumps([result.model_dump() for result in results]))
    else:
        _show(results, out)


def _title(quick: bool) -> str:
    return "Methods on hospitals that differ" + (", on phantoms" if quick else "")


def _draw(out: Path) -> Path:
    """Where the phantoms of three hospitals lie, in a table that names them."""
    records: list[ImageRecord] = []
    for name, (counts, scanner) in _QUICK_HOSPITALS.items():
        place = out / "phantoms" / name
        write_phantoms(
            place, counts=counts, size=64, seed=2022, scanner=scanner, patients_prefix=f"p{name}"
        )
        records += [replace(record, site=name) for record in read_records(place)]
    table = out / "phantoms" / "index.csv"
    write_manifest(table, records)
    return table


def _show(results: Sequence[CellResult], out: Path) -> None:
    console = Console()
    for scenario in dict.fromkeys(result.scenario for result in results):
        headings = ("accuracy, %", "macro AUROC", "worst site, %", "MB up", "minutes")
        table = figure_table(scenario, *headings)
        for r in (result for result in results if result.scenario == scenario):
            table.add_row(
                r.name,
                r.accuracy.percent(),
                "–" if r.macro_auroc is None else f"{r.macro_auroc:.3f}",
                f"{100 * r.worst_accuracy.value:.1f} ({r.worst_site})",
                f"{r.bytes_up / 1e6:.1f}" if r.bytes_up else "–",
                f"{r.minutes:.1f}",
            )
        console.print(table)
    console.print(f"page: {out / 'methods.html'}", soft_wrap=True)
