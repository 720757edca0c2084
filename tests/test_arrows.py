"""Imports point one way (see the README): crypto ← codec ← federation."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

_PPFL = Path(__file__).parents[1] / "ppfl"
_MAY_IMPORT = {
    "settings": {"errors", "settings"},
    "crypto": {"errors", "files", "crypto"},
    "codec": {"errors", "crypto", "codec"},
    "federation": {"errors", "files", "settings", "crypto", "codec", "federation"},
    "learning": {"errors", "files", "settings", "xray", "learning"},
    "xray": {"errors", "crypto", "xray"},
    "report": {"errors", "files", "settings", "federation", "learning", "report"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("package", _MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for path in (_PPFL / package).rglob("*.py"):
        for name in _imports(path):
            head, *rest = name.split(".")
            assert head not in ("flwr", "sites", "coordinator", "simulations"), path
            if head == "ppfl":
                assert rest[0] in _MAY_IMPORT[package], f"{path} imports {name}"


def test_the_dashboard_knows_no_flower() -> None:
    for path in (_PPFL.parent / "coordinator" / "dashboard").rglob("*.py"):
        for name in _imports(path):
            head, *rest = name.split(".")
            assert head not in ("flwr", "simulations"), path
            assert head != "coordinator" or rest[0] == "dashboard", f"{path} imports {name}"


def test_only_the_command_line_knows_the_benchmarks() -> None:
    root = _PPFL.parent
    for package in ("ppfl", "sites", "coordinator", "simulations"):
        for path in (root / package).rglob("*.py"):
            if path != root / "simulations" / "main.py":
                assert not any(name.split(".")[0] == "benchmarks" for name in _imports(path)), path


def test_a_program_of_ours_is_started_as_it_is_installed() -> None:
    """Without ``-P`` python takes modules from the folder that it is started in."""
    root = _PPFL.parent
    started = 0
    for package in ("ppfl", "sites", "coordinator", "simulations", "benchmarks"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                words = node.elts if isinstance(node, ast.List | ast.Tuple) else []
                for program, option in itertools.pairwise(map(ast.unparse, words)):
                    if program == "sys.executable":
                        assert option == "'-P'", f"{path}:{node.lineno}"
                        started += 1
    assert started >= 6
