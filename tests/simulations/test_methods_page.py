"""The table of methods by scenarios in the docs."""

from __future__ import annotations

from pathlib import Path

from ppfl.report import method_rows
from simulations.methods.cells import Cell, read_cell
from simulations.methods.methods import METHODS
from simulations.scenario import read_scenario

_BY_KEY = {method.key: method for method in METHODS}
_ROOT = Path(__file__).parents[2]


def test_the_table_in_the_docs_is_of_the_kept_results_and_of_the_present_settings() -> None:
    # ppfl compare-methods --data FOLDER --size 64 --rounds 5 --results benchmarks/results/methods
    kept = map(read_cell, sorted((_ROOT / "benchmarks" / "results" / "methods").glob("*.json")))
    results = [result for result in kept if result]
    common = ("mean_xray_size=0", "size=64", "rounds=5")
    for found in results:
        method = _BY_KEY[found.method]
        changes = [*common, *method.changes]
        scenario = read_scenario(found.scenario, data=_ROOT, changes=changes)
        assert Cell(method, scenario, found.scenario, found.data_sha256).fits(found), found.scenario
    page = (_ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for row in method_rows(results):
        figures = (row.accuracy, row.everywhere, row.macro_auroc, row.worst, row.megabytes)
        assert f"| {row.name} | {' | '.join(figures)} |" in page, row.scenario
    assert results
