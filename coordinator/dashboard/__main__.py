"""`python -m coordinator.dashboard`: the dashboard without the rest of ppfl, which needs torch."""

from __future__ import annotations

from coordinator.dashboard.command import show_dashboard
from sites.printing import run_command


def main() -> None:
    """Run the command `ppfl dashboard` from the arguments after it."""
    run_command(show_dashboard)


if __name__ == "__main__":
    main()
