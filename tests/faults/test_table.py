"""The pages about faults: they name those that are struck, all of them, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.cases import FAULTS
from tests.faults.run import Outcome

_DOCS = Path(__file__).parents[2] / "docs"
_WORDS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_NUMBERS = {word: number for number, word in enumerate(_WORDS, start=10)}


def _first_cells(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]


def test_a_page_is_a_row_for_each_fault_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "faults.md"
    monkeypatch.setattr(table, "_PAGE", page)
    outcomes = [Outcome(fault.name, (), (), 90.0 + n, 3, 3) for n, fault in enumerate(FAULTS)]
    table.write_page(outcomes, cores=2)
    assert _first_cells(page.read_text()) == [fault.what for fault in FAULTS]


def test_the_page_on_faults_is_of_the_faults_that_are_struck() -> None:
    page = _DOCS / "faults.md"
    if not page.exists():
        pytest.skip("docs/faults.md is not made yet: python -m tests.faults")
    assert _first_cells(page.read_text()) == [fault.what for fault in FAULTS]


def test_the_page_on_the_gateway_tells_how_many_faults_there_are() -> None:
    text = (_DOCS / "gateway.md").read_text()
    (told,) = re.findall(r"strikes real\s+processes with (\w+) faults", text)
    struck = sum(fault.name != "none" for fault in FAULTS)
    assert _NUMBERS.get(told, told) in (struck, str(struck))
