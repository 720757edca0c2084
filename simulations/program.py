"""The program `ppfl` as it is installed."""

from __future__ import annotations

import sys
from importlib import import_module

_LIGHT = {"dashboard": "coordinator.dashboard.__main__", "export": "coordinator.export_command"}


def main() -> None:
    """Run the command line; some commands without loading what training needs."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in _LIGHT:
        sys.argv[:2] = [f"ppfl {command}"]
        import_module(_LIGHT[command]).main()
    else:
        import_module("simulations.main").main()
