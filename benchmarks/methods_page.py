"""`python -m benchmarks.methods_page`: the tables and the figure of docs/scenarios.md.

They are made of the results that are kept in benchmarks/results/methods, where `ppfl
compare-methods` puts them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ppfl.report import CellResult, MethodRow, method_rows, write_methods
from simulations.methods.cells import read_cell
from simulations.methods.methods import METHODS, SCENARIOS

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "results" / "methods"
PAGE = _ROOT / "docs" / "scenarios.md"
_FIGURE = _ROOT / "docs" / "figures" / "methods.svg"
_TABLE = re.compile(r"(\*\*(.+)\*\* .*\n\n\| method .*\n\|[-:|]+\n)(?:\|.*\n)*")
_TITLE = "Methods on hospitals that differ"


def kept_results(folder: Path) -> list[CellResult]:
    """The results in a folder, by scenario and then by method."""
    found = [result for result in map(read_cell, folder.glob("*.json")) if result]
    keys = [method.key for method in METHODS]
    return sorted(found, key=lambda r: (SCENARIOS.index(r.scenario), keys.index(r.method), r.seed))


def with_tables(page: str, results: Sequence[CellResult]) -> str:
    """The page with its tables of methods, one below each scenario's name, made anew."""
    rows = method_rows(results)

    def table(found: re.Match[str]) -> str:
        return found[1] + "".join(_line(row) for row in rows if row.scenario == found[2])

    return _TABLE.sub(table, page)


def _line(row: MethodRow) -> str:
    figures = (row.accuracy, row.everywhere, row.macro_auroc, row.worst, row.megabytes, row.minutes)
    return f"| {row.name} | {' | '.join(figures)} |\n"


def main() -> None:
    """Write them."""
    results = kept_results(RESULTS)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        write_methods(Path(folder), results, title=_TITLE, findings=[])
        _FIGURE.write_bytes(Path(folder, "methods.svg").read_bytes())


if __name__ == "__main__":
    main()
