"""`ppfl compare-methods`: ways to train, on hospitals that differ, in one table."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ppfl.errors import ModelError, SettingsError
from ppfl.files import lock_file
from ppfl.learning.sources import ImageRecord, read_records, write_manifest
from ppfl.report import CellResult, method_findings, method_rows, write_methods
from ppfl.xray import Scanner, write_phantoms
from simulations.methods.cells import Cell, data_digest, read_cell, run_cell
from simulations.methods.methods import METHODS, SCENARIOS, Method, choose_methods, refuse_settled
from simulations.outcome import remove_run
from simulations.prepare import weights_file
from simulations.scenario import Scenario, draft_study, read_scenario, scenario_name
from simulations.side_by_side import JOBS_HELP, side_by_side
from simulations.tables import figure_table
from sites.printing import AsJson, tell_left_out

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
    seeds: Annotated[str, typer.Option(help="one training for each, such as 2022,1")] = "",
    rounds: Annotated[int | None, typer.Option(help="rounds of each training", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="side of the input, in pixels")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    jobs: Annotated[int, typer.Option(min=0, help=JOBS_HELP)] = 0,
    out: Annotated[Path | None, typer.Option(help="where trainings and the table go")] = None,
    results: Annotated[
        Path | None, typer.Option(help="what has a result there is not repeated; else OUT/results")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="try again what failed")] = False,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="keep the folders of trainings that are done")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train every method in every scenario, under encryption, and write one table.

    Example: ppfl compare-methods --data xrays --scenarios iid,natural
    """
    if quick == (data is not None):
        raise SettingsError("either --quick or --data FOLDER", hint="--quick draws phantoms")
    chosen = choose_methods(methods or (_QUICK_METHODS if quick else ""))
    refuse_settled(changes or (), chosen)
    names = [name.strip() for name in scenarios.split(",") if name.strip()]
    names = names or list(_QUICK_SCENARIOS if quick else SCENARIOS)
    common = [
        *(_QUICK if quick else ("size=96", "mean_xray_size=0")),
        *([f"size={size}"] if size is not None else ()),
        *([f"rounds={rounds}"] if rounds is not None else ()),
        *(changes or ()),
    ]
    out = out or Path("runs") / ("compare-methods-quick" if quick else "compare-methods")
    results = results or out / "results"
    for folder in (out, results):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_file(out / ".lock"):
        data = _draw(out) if data is None else data
        table = _Table(data, common, _read_seeds(seeds), names)
        tasks: dict[str, _Task] = {}
        for cell in table.cells(names, chosen):
            tasks.setdefault(cell.run, _Task([], out, results, retry, keep_runs)).cells.append(cell)
        for classes in table.classes:
            tell_left_out(data, classes)
        done: list[CellResult] = []
        for _ in side_by_side(_do_cells, tasks, jobs=jobs, talk=_talk):
            done = table.done(results)
            write_methods(out, done, title=_title(quick), findings=_findings(done))
    if as_json:
        typer.echo(json.dumps([result.model_dump(mode="json") for result in done]))
    else:
        _show(done, out)


@dataclass(frozen=True, slots=True)
class _Task:
    """The cells of one federation: they share its run's folder."""

    cells: list[Cell]
    out: Path
    results: Path
    retry: bool
    keep_runs: bool


def _do_cells(task: _Task, threads: int, talk: Console) -> None:
    failed = False
    for cell in task.cells:
        talk.print(f"{cell.method.name}, {cell.name}, seed {cell.seed}")
        result = run_cell(
            cell, out=task.out, results=task.results, retry=task.retry, threads=threads, talk=talk
        )
        failed |= bool(result.failure)
    if not (task.keep_runs or failed):
        remove_run(task.out / "runs" / task.cells[0].run)  # the results are elsewhere


class _Table:
    """The cells that one command may measure.

    Args:
        data: folder or table of X-rays.
        changes: what all of them differ in from their scenario, as ``key=value``.
        seeds: None means the scenarios' own.
        scenarios: those that are asked for.

    Raises:
        SettingsError: two scenarios have one name, and so would have the same results.
    """

    def __init__(
        self,
        data: Path,
        changes: Sequence[str],
        seeds: Sequence[int | None],
        scenarios: Sequence[str],
    ) -> None:
        self._data, self._changes, self._seeds = data, changes, seeds
        self._sources = {scenario_name(source): source for source in scenarios}
        if len(self._sources) < len(set(scenarios)):
            raise SettingsError("--scenarios: two of them have one name", hint="rename a file")
        self._digests: dict[tuple[str, ...], str] = {}
        self._weights: dict[Path, str] = {}

    @property
    def classes(self) -> Sequence[tuple[str, ...]]:
        """Those of the cells that were asked for."""
        return list(self._digests)

    def cells(self, scenarios: Sequence[str], methods: Sequence[Method]) -> Iterator[Cell]:
        """Those of some scenarios and methods.

        Raises:
            SettingsError: a scenario does not exist, or its study breaks a rule whatever the
                method.
            DataError: there are no such X-rays.
        """
        for name in scenarios:
            for seed in self._seeds:
                study = draft_study(self._scenario(name, (), seed))
            if study.classes not in self._digests:
                self._digests[study.classes] = data_digest(self._data, study.classes)
            for method, seed in itertools.product(methods, self._seeds):
                scenario = self._scenario(name, method.changes, seed)
                weights = self._weights_sha256(weights_file(scenario, study))
                digest = self._digests[study.classes]
                yield Cell(method, scenario, scenario_name(name), digest, weights)

    def done(self, results: Path) -> list[CellResult]:
        """All that was measured with these settings, by scenario and then by method.

        Raises:
            RunError: a file is damaged.
        """
        built_in = {scenario: scenario for scenario in SCENARIOS}
        every = [
            source
            for name, source in (built_in | self._sources).items()
            if next(results.glob(f"{glob.escape(name)}.*.json"), None)
        ]
        found = ((cell, read_cell(cell.place(results))) for cell in self.cells(every, METHODS))
        return [result for cell, result in found if result and cell.fits(result)]

    def _scenario(self, name: str, changes: Sequence[str], seed: int | None) -> Scenario:
        seeded = [] if seed is None else [f"seed={seed}"]
        return read_scenario(name, data=self._data, changes=[*self._changes, *changes, *seeded])

    def _weights_sha256(self, path: Path | None) -> str:
        if path is None:
            return ""
        if path not in self._weights:
            try:
                self._weights[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise ModelError(f"{path}: {error.strerror}") from None
        return self._weights[path]


def _read_seeds(text: str) -> Sequence[int | None]:
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if strange := [part for part in wanted if not part.isdecimal()]:
        raise SettingsError(f"--seeds {strange[0]}: must be numbers, such as 2022,1")
    return list(dict.fromkeys(map(int, wanted))) or [None]


def _findings(results: Sequence[CellResult]) -> list[str]:
    baselines = [method.key for method in METHODS if method.baseline]
    return method_findings(results, baselines=baselines)


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
    console = Console(markup=False)
    rows = method_rows(results)
    for scenario in dict.fromkeys(row.scenario for row in rows):
        headings = ("own tests, %", "all sites' tests, %", "macro AUROC", "worst site, %")
        table = figure_table(scenario, *headings, "MB up", "minutes")
        for r in (row for row in rows if row.scenario == scenario):
            figures = r.accuracy, r.everywhere, r.macro_auroc, r.worst
            table.add_row(r.name, *figures, r.megabytes, r.minutes)
        console.print(table)
        for r in (row for row in rows if row.scenario == scenario):
            for failure in r.failures:
                console.print(f"{r.name} failed, {failure}", soft_wrap=True, markup=False)
    for finding in _findings(results):
        console.print(finding, soft_wrap=True, markup=False)
    console.print(f"page: {out / 'methods.html'}", soft_wrap=True)
