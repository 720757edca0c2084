"""The program `ppfl` as it is installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the dashboard without loading what training needs."""
    if sys.argv[1:2] == ["dashboard"]:
        from coordinator.dashboard.__main__ import main as run

        sys.argv[:2] = ["ppfl dashboard"]
    else:
        from simulations.main import main as run
    run()
