"""The program `ppfl` as it is installed."""

from __future__ import annotations

import sys
from importlib import import_module

from sites.printing import run_command

_LIGHT = {
    ("audit",): "coordinator.audit_command:audit_run",
    ("dashboard",): "coordinator.dashboard.command:show_dashboard",
    ("export",): "coordinator.export_command:export_run",
    ("report",): "coordinator.report_command:report_run",
    ("runs", "compare"): "coordinator.runs_command:compare_runs",
    ("runs", "list"): "coordinator.runs_command:list_runs",
    ("runs", "show"): "coordinator.runs_command:show_run",
    ("coordinator", "run"): "coordinator.run_command:run_coordinator",
    ("coordinator", "start"): "coordinator.start_command:start_coordinator",
    ("coordinator", "status"): "coordinator.status_command:show_status",
    ("coordinator", "stop"): "coordinator.status_command:stop_coordinator",
    ("site", "run"): "sites.run_command:run_site",
}
"""Commands that stay for weeks, or are given often, and train nothing: they load no torch."""


def main() -> None:
    """Run the command line."""
    for words, place in _LIGHT.items():
        if tuple(sys.argv[1 : 1 + len(words)]) == words:
            module, _, name = place.partition(":")
            sys.argv[: 1 + len(words)] = [" ".join(("ppfl", *words))]
            run_command(getattr(import_module(module), name))
            return
    from simulations.main import main as run

    run()
