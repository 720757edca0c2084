"""The program `ppfl`."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.command import bench
from coordinator.audit_command import audit_run
from coordinator.dashboard.command import show_dashboard
from coordinator.export_command import export_run
from coordinator.report_command import report_run
from coordinator.run_command import run_coordinator
from coordinator.runs_command import runs
from coordinator.setup_command import init_coordinator, renew_server, write_site_kits
from coordinator.start_command import start_coordinator
from coordinator.status_command import show_status, stop_coordinator
from ppfl import __version__
from simulations.command import simulate
from simulations.data_command import data
from simulations.doctor import doctor
from simulations.evaluation import evaluate_model, predict_images
from simulations.methods.command import compare_methods
from simulations.reproduction.command import reproduce
from simulations.shortcuts.command import measure_shortcuts
from sites.keys_command import create_keys, show_key
from sites.printing import run_command_line
from sites.run_command import run_site
from sites.setup_command import init_site, join_federation
from sites.vault_command import vault

_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ppfl {__version__}")
        raise typer.Exit


@_app.callback()
def _begin(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="say which it is"),
    ] = False,
) -> None:
    """Hospitals train one chest X-ray classifier together, under encryption."""


_app.command()(simulate)
_app.command()(bench)
_app.command("evaluate")(evaluate_model)
_app.command("predict")(predict_images)
_app.command("shortcuts")(measure_shortcuts)
_app.command()(reproduce)
_app.command()(compare_methods)
_app.command()(doctor)
_app.command("audit")(audit_run)
_app.command("export")(export_run)
_app.command("report")(report_run)
_app.command("dashboard")(show_dashboard)
_app.add_typer(data, name="data")
_app.add_typer(vault, name="vault")
_app.add_typer(runs, name="runs")

_keys = typer.Typer(no_args_is_help=True, help="Hold the key ceremony; look at key files.")
_keys.command("create")(create_keys)
_keys.command("show")(show_key)
_app.add_typer(_keys, name="keys")

_site = typer.Typer(no_args_is_help=True, help="Take part as a hospital.")
_site.command("init")(init_site)
_site.command("join")(join_federation)
_site.command("run")(run_site)
_app.add_typer(_site, name="site")

_coordinator = typer.Typer(no_args_is_help=True, help="Run a federation between hospitals.")
_coordinator.command("init")(init_coordinator)
_coordinator.command("kit")(write_site_kits)
_coordinator.command("renew")(renew_server)
_coordinator.command("run")(run_coordinator)
_coordinator.command("start")(start_coordinator)
_coordinator.command("status")(show_status)
_coordinator.command("stop")(stop_coordinator)
_app.add_typer(_coordinator, name="coordinator")


def main() -> None:
    """Run the command line."""
    run_command_line(_app)
