"""The Flower ServerApp of the coordinator: it finds the run's folder and starts the round loop."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from coordinator.rounds import Coordinator
from ppfl.report import leave_report
from simulations.prepare import prepare_named
from sites.folders import run_folder

app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    folder = run_folder(context.run_id)
    if "PPFL_RUN" not in os.environ:
        # `flwr run .`: nobody has prepared a folder for this run
        prepare_named(str(context.run_config["scenario"]), folder)
    try:
        key = os.environ.get("PPFL_JOURNAL_KEY")
        Coordinator(grid, folder, journal_key=Path(key) if key else None).run(resume=True)
    finally:
        leave_report(folder)
