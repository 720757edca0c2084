"""`ppfl simulate`: prepares a federation, runs it, and shows what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.summary_table import print_summary
from ppfl.crypto import choose_engine
from ppfl.errors import PpflError, RunError, SettingsError
from ppfl.federation import iterate_journal
from ppfl.report import Comparison, Summary, summarise, write_report
from ppfl.settings import SiteFile, Study
from simulations.comparison.compare import ASKED, also_asked, compare_run, read_methods
from simulations.comparison.show import print_comparison
from simulations.outcome import held_out_images
from simulations.prepare import prepare
from simulations.progress import RunProgress
from simulations.runner import run_in_flower, run_in_process, share_of_cores
from simulations.scenario import read_scenario, scenario_name
from sites.printing import AsJson, tell_left_out

_talk = Console(stderr=True)


def simulate(
    scenario: Annotated[str, typer.Argument(help="a name, or a TOML file")] = "quickstart",
    rounds: Annotated[int | None, typer.Option(help="rounds, in place of the scenario's")] = None,
    sites: Annotated[int | None, typer.Option(help="how many hospitals")] = None,
    data: Annotated[Path | None, typer.Option(help="folder or table of X-rays")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder")] = None,
    resume: Annotated[Path | None, typer.Option(help="go on with the run in a folder")] = None,
    in_process: Annotated[bool, typer.Option(help="without Flower's processes")] = False,
    compare: Annotated[
        str, typer.Option(help="train these beside it: local,pooled,plaintext,unrounded")
    ] = "",
    hold_out: Annotated[str, typer.Option(help="a hospital that takes no part, to test on")] = "",
    actors: Annotated[int, typer.Option(help="hospitals at work at one time", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a federation of simulated hospitals on this machine.

    Example: ppfl simulate covid --data xrays --rounds 6 --set value_bits=14
    """
    methods = read_methods(compare)
    if resume is not None:
        folder = resume
        new = {"--rounds": rounds, "--sites": sites, "--data": data, "--set": changes, "--out": out}
        if given := [name for name, value in (*new.items(), ("--hold-out", hold_out)) if value]:
            raise SettingsError(
                f"{' and '.join(given)} cannot be given with --resume",
                hint=f"the run in {folder} goes on with the settings that it began with",
            )
        if not (folder / "study.toml").exists():
            raise RunError(f"{folder}: holds no run to resume")
    else:
        folder = out or Path("runs") / scenario_name(scenario)
        chosen = read_scenario(
            scenario,
            rounds=rounds,
            sites=sites,
            data=data,
            changes=[*(changes or ()), *([f"hold_out={json.dumps(hold_out)}"] if hold_out else ())],
        )
        _talk.print(f"Preparing {folder}: X-rays, keys, starting parameters")
        # a model depends on the number, which a baseline must therefore know
        threads = 0 if in_process else share_of_cores(actors)
        study = prepare(chosen, folder, threads=threads)
        if chosen.simulation.data:
            tell_left_out(Path(chosen.simulation.data), study.classes)
    methods = also_asked(folder, methods)
    # a hospital that cannot be tested on is told before hours of training
    held_out = held_out_images(Study.read(folder / "study.toml"), folder)
    with RunProgress(folder, _talk):
        if in_process:
            run_in_process(folder)
        else:
            run_in_flower(folder, actors=actors)
    comparison = None
    if methods or held_out:
        try:
            comparison = compare_run(folder, methods, _talk.print)
        except PpflError as error:
            if methods and not error.hint:
                error.hint = f"to go on without a comparison: remove {folder / ASKED}"
            raise
        write_report(folder)  # once more: the comparison is in it
    summary = summarise(iterate_journal(folder / "journal.jsonl"))
    first = folder / "sites" / summary.rounds[-1].sites[0]
    places = {
        "model": str(first / "work" / "model.safetensors"),
        "journal": str(folder / "journal.jsonl"),
        "report": str(folder / "report.html"),
    }
    if as_json:
        engine = {"engine": choose_engine(SiteFile.read(first / "site.toml").engine).name}
        compared = {"comparison": comparison.model_dump(mode="json")} if comparison else {}
        typer.echo(json.dumps(summary.to_dict() | engine | places | compared))
    else:
        _show(summary, comparison, places)


def _show(summary: Summary, comparison: Comparison | None, places: dict[str, str]) -> None:
    out = Console(markup=False)
    print_summary(summary, out)
    if comparison:
        print_comparison(comparison, out)
    for name, place in places.items():
        out.print(f"{name}: {place}", soft_wrap=True)
