from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import dashboard
from benchmarks.dashboard import measure, write_journal
from tests.deployed import free_port


@pytest.mark.slow
def test_a_long_journal_is_shown_soon_and_with_little_memory(tmp_path: Path) -> None:
    """The first page tells the present; the times are loose, for machines that do much else."""
    lines = write_journal(tmp_path / "long", rounds=1000)
    assert lines == 51 + 1000 * 103 - 50
    found = measure(tmp_path / "long", lines=lines, port=free_port())
    assert found.journal_mb > 50
    assert 0 < found.first_page_s < found.up_to_date_s
    assert found.first_page_s < 30
    assert 20 < found.peak_mb < 200


def test_the_table_tells_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dashboard.py", "--rounds", "2", "--port", str(free_port())]
    monkeypatch.setattr(sys, "argv", arguments)
    dashboard.main()
    assert f"| {51 + 2 * 103 - 50} |" in capsys.readouterr().out


def test_a_first_page_of_the_past_fails_the_measurement() -> None:
    past = {"study": {"rounds": 9}, "now": {"state": "running", "complete": 7}}
    with pytest.raises(RuntimeError, match="tells round 7 of 8"):
        dashboard._require_present({"parts": past})
