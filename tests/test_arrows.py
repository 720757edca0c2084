"""Imports point one way (see the README): crypto ← codec ← federation."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_PPFL = Path(__file__).parents[1] / "ppfl"
_MAY_IMPORT = {
    "settings": {"errors", "settings"},
    "crypto": {"errors", "crypto"},
    "codec": {"errors", "crypto", "codec"},
    "federation": {"errors", "settings", "crypto", "codec", "federation"},
    "learning": {"errors", "settings", "xray", "learning"},
    "xray": {"errors", "crypto", "xray"},
    "report": {"errors", "federation", "report"},
}


@pytest.mark.parametrize("package", _MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for path in (_PPFL / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                head, *rest = name.split(".")
                assert head not in ("flwr", "sites", "coordinator", "simulations"), path
                if head == "ppfl":
                    assert rest[0] in _MAY_IMPORT[package], f"{path} imports {name}"
