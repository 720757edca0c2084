"""How Flower's programs are started here: at the coordinator, at a site, and in a simulation."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from ppfl.errors import write_error
from ppfl.files import replace_private

_SCRIPTS = Path(sys.executable).parent
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def flower_program(name: str) -> str:
    """One of Flower's programs, or another, in this environment."""
    return str(_SCRIPTS / name)


def flower_environment(home: Path, *, before: Path | None = None) -> dict[str, str]:
    """This process's environment, with all that keeps Flower from calling home.

    Args:
        home: the program's own folder; no two programs share one.
        before: folder of programs that stand in for Flower's of the same names.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Flower starts its own programs by name
    places = [*([str(before)] if before else []), str(_SCRIPTS), os.environ.get("PATH", "")]
    return os.environ | _QUIET | {"FLWR_HOME": str(home), "PATH": os.pathsep.join(places)}


def write_secret(path: Path) -> None:
    """Write a fresh secret, which lets a SuperExec take work, for its owner's eyes only.

    Raises:
        RunError: it cannot be written; on a full disk that is a DiskFullError.
    """
    try:
        replace_private(path, [secrets.token_bytes(32)])
    except OSError as error:
        raise write_error(f"{path}: cannot be written", error) from None
