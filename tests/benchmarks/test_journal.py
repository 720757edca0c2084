"""The benchmark of long journals: its journal is one that an auditor finds nothing wrong with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.journal import measure, write_run
from coordinator.audit import audit
from ppfl.errors import RunError
from ppfl.federation import iterate_journal
from ppfl.report import summarise


def test_its_journal_is_whole_and_signed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    events = write_run(run, sites=3, rounds=4)
    found = audit(run)
    assert (found.findings, found.events) == ([], events)
    assert all(len(each.countersigned) == 3 for each in found.rounds)
    assert [(each.first, each.last, each.times) for each in found.left["site-000"]] == [
        (0, 0, 1),
        (1, 4, 4),
        (1, 4, 4),
    ]
    summary = summarise(iterate_journal(run / "journal.jsonl"))
    assert len(summary.rounds) == 4
    assert summary.test


def test_a_process_is_measured_and_its_failure_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")  # ppfl itself takes seconds to start
    seconds, megabytes = measure(["runs", "list"])
    assert seconds > 0
    assert megabytes > 0
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="runs list ended with 1"):
        measure(["runs", "list"])
