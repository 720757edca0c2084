from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from ppfl.federation import Journal
from ppfl.federation.journal import RoundClosed, SiteEnrolled
from simulations.progress import RunProgress
from sites.phase import Phase
from tests.simulations.tiny import prepare_once, tiny_scenario


def test_a_run_is_told_as_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    journal = Journal(folder / "journal.jsonl")
    journal.write(SiteEnrolled(site="before", bytes_up=1))
    (folder / "sites" / "east" / "work").mkdir()
    screen = io.StringIO()
    with RunProgress(folder, Console(file=screen, width=80, force_terminal=True)):
        journal.write(SiteEnrolled(site="east", bytes_up=224))
        with Phase(folder / "sites" / "east" / "work").enter("train", 1) as step:
            step(3, 3)
        journal.write(RoundClosed(round=1, sites=("east",), seconds=2.0, total_sha256=""))
    told = screen.getvalue()
    assert "east enrolled" in told
    assert "before enrolled" not in told
    assert "round 1: closed: 1 sites in the total, 2.0 s" in told
    assert "round 1: train" in told


def test_without_a_terminal_there_are_lines_only(tmp_path: Path) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    screen = io.StringIO()
    with RunProgress(tmp_path / "run", Console(file=screen, force_terminal=False)):
        Journal(tmp_path / "run" / "journal.jsonl").write(SiteEnrolled(site="east", bytes_up=1))
    assert screen.getvalue()[len("2026-01-31 12:00:00") :] == "  east enrolled\n"
