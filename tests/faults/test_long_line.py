"""Where the rows about a long line go, without such a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.long_line import _BEGIN, _CASES, _END, _HEAD, put_rows

_PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
_ROWS = [f"| {what} | 1 | 2 | 0 times | once | 0 times |" for what in _CASES]


def test_rows_take_the_place_of_all_that_were_there_and_of_nothing_else() -> None:
    written = put_rows(_PAGE, _ROWS, code="ab" * 32)
    assert written.split(_BEGIN)[0] == _PAGE.split(_BEGIN)[0]
    assert written.split(_END)[1] == _PAGE.split(_END)[1]
    place = written.split(_BEGIN)[1].split(_END)[0]
    assert place.endswith(f"begins with `{'ab' * 8}`.\n\n{_HEAD}" + "\n".join(_ROWS) + "\n")
    assert put_rows(written, _ROWS, code="ab" * 32) == written


def test_the_page_has_the_columns_that_are_measured_and_rows_of_known_lines() -> None:
    place = _PAGE.split(_BEGIN)[1].split(_END)[0]
    rows = place.split(_HEAD)[1].splitlines()
    assert rows
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} <= set(_CASES)


@pytest.mark.parametrize("page", ["no place", _BEGIN, _END + _BEGIN, _BEGIN + _BEGIN + _END])
def test_a_page_without_one_place_for_the_rows_is_left_alone(page: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        put_rows(page, _ROWS, code="ab" * 32)
