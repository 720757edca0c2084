"""`python -m coordinator.dashboard`: the dashboard without the rest of ppfl, which needs torch."""

from __future__ import annotations

import typer

from coordinator.dashboard.command import show_dashboard
from sites.printing import run_command_line


def main() -> None:
    """Run the command `ppfl dashboard` from the arguments after it."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(show_dashboard)
    run_command_line(app)


if __name__ == "__main__":
    main()
