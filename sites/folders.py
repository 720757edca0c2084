"""Where a run's files lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def run_folder(run_id: int) -> Path:
    """Where a run's files lie: $PPFL_RUN, or a folder of its own below $PPFL_HOME or ~/.ppfl."""
    if folder := os.environ.get("PPFL_RUN"):
        return Path(folder)
    home = Path(os.environ.get("PPFL_HOME", "~/.ppfl")).expanduser()
    return home / "runs" / f"flower-{run_id}"
