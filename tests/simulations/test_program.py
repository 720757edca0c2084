"""What the installed program loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from typer.testing import CliRunner

from simulations.main import _app
from simulations.program import _LIGHT


def test_what_trains_nothing_loads_no_torch_and_is_the_same_command() -> None:
    modules = sorted({place.partition(":")[0] for place in _LIGHT.values()})
    modules.append("ppfl.report.figures")  # which a report loads when it draws
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    groups = {"": _app} | {group.name: group.typer_instance for group in _app.registered_groups}
    for words, place in _LIGHT.items():
        commands = groups["" if len(words) == 1 else words[0]].registered_commands
        (function,) = (command.callback for command in commands if command.name == words[-1])
        assert f"{function.__module__}:{function.__name__}" == place


def test_the_program_says_which_version_it_is() -> None:
    result = CliRunner().invoke(_app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"ppfl {version('ppfl')}\n")
