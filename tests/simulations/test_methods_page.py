"""The tables and figures of methods by scenarios in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.methods_page import PAGE, RESULTS, kept_results, with_tables
from ppfl.report import CellResult, method_rows
from simulations.methods.cells import Cell
from simulations.methods.methods import METHODS
from simulations.scenario import read_scenario

_BY_KEY = {method.key: method for method in METHODS}
_ROOT = Path(__file__).parents[2]
_PAGE = PAGE.read_text(encoding="utf-8")


def _kept(folder: Path, *common: str) -> list[CellResult]:
    """The results in a folder, which must be of the present settings."""
    results = kept_results(folder)
    for found in results:
        method = _BY_KEY[found.method]
        changes = ["mean_xray_size=0", *common, *method.changes]
        scenario = read_scenario(found.scenario, data=_ROOT, changes=changes)
        digests = found.data_sha256, found.weights_sha256
        assert Cell(method, scenario, found.scenario, *digests).fits(found), found.scenario
        assert found.name == method.name
    assert results
    return results


def test_the_table_in_the_docs_is_of_the_kept_results_and_of_the_present_settings() -> None:
    # ppfl compare-methods --data FOLDER --size 64 --rounds 5 --results benchmarks/results/methods
    results = _kept(RESULTS, "size=64", "rounds=5")
    assert with_tables(_PAGE, results) == _PAGE
    for result in results:
        assert f"**{result.scenario}**" in _PAGE


@pytest.mark.parametrize(
    ("folder", "common"),
    [
        ("iid-160", ("size=160", "rounds=10", "label_smoothing=0.1")),
        ("dirichlet-128", ("size=128",)),
        ("dirichlet-128-12", ("size=128", "rounds=12")),
    ],
)
def test_single_figures_in_the_docs_are_of_kept_results(
    folder: str, common: tuple[str, ...]
) -> None:
    for row in method_rows(_kept(RESULTS.parent / folder, *common)):
        figure, interval = row.everywhere.split(" ", maxsplit=1)
        assert f"{figure} % {interval}" in _PAGE, row.name
