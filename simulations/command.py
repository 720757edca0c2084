"""`ppfl simulate`: prepares a federation, runs it, and shows what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.summary_table import print_summary
from ppfl.crypto import choose_engine
from ppfl.errors import RunError
from ppfl.federation import read_journal
from ppfl.report import Summary, summarise
from ppfl.settings import SiteFile
from simulations.prepare import prepare
from simulations.progress import RunProgress
from simulations.runner import run_in_flower, run_in_process
from simulations.scenario import read_scenario
from sites.printing import tell_left_out

_talk = Console(stderr=True)
_APP = Path(__file__).parent.parent


def simulate(
    scenario: Annotated[str, typer.Argument(help="a name, or a TOML file")] = "quickstart",
    rounds: Annotated[int | None, typer.Option(help="rounds, in place of the scenario's")] = None,
    sites: Annotated[int | None, typer.Option(help="how many hospitals")] = None,
    data: Annotated[Path | None, typer.Option(help="folder or table of X-rays")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value")] = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder")] = None,
    resume: Annotated[Path | None, typer.Option(help="go on with the run in a folder")] = None,
    in_process: Annotated[bool, typer.Option(help="without Flower's processes")] = False,
    actors: Annotated[int, typer.Option(help="hospitals at work at one time", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train a federation of simulated hospitals on this machine.

    Example: ppfl simulate covid --data xrays --rounds 6 --set value_bits=14
    """
    if resume is not None:
        folder = resume
        if not (folder / "study.toml").exists():
            raise RunError(f"{folder}: holds no run to resume")
    else:
        folder = out or Path("runs") / Path(scenario).stem
        chosen = read_scenario(
            scenario, rounds=rounds, sites=sites, data=data, changes=changes or ()
        )
        _talk.print(f"Preparing {folder}: X-rays, keys, starting parameters")
        study = prepare(chosen, folder)
        if chosen.simulation.data:
            tell_left_out(Path(chosen.simulation.data), study.classes)
    with RunProgress(folder, _talk):
        if in_process:
            run_in_process(folder)
        else:
            run_in_flower(folder, _APP, actors=actors)
    summary = summarise(read_journal(folder / "journal.jsonl"))
    first = folder / "sites" / summary.rounds[-1].sites[0]
    places = {
        "model": str(first / "work" / "model.safetensors"),
        "journal": str(folder / "journal.jsonl"),
        "report": str(folder / "report.html"),
    }
    if as_json:
        engine = {"engine": choose_engine(SiteFile.read(first / "site.toml").engine).name}
        typer.echo(json.dumps(summary.to_dict() | engine | places))
    else:
        _show(summary, places)


def _show(summary: Summary, places: dict[str, str]) -> None:
    out = Console()
    print_summary(summary, out)
    for name, place in places.items():
        out.print(f"{name}: {place}", soft_wrap=True)
