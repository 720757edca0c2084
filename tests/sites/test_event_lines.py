"""What `ppfl site run`, `ppfl coordinator run` and `ppfl simulate` print as it happens."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from ppfl.federation import Journal
from ppfl.federation.journal import (
    LeftHospital,
    LeftItem,
    RecordWitnessed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    SiteFailed,
)
from sites.event_lines import JournalLines, PhaseLines, line_of
from sites.phase import Phase
from tests.coordinator.dashboard.studies import started


def _screen() -> tuple[io.StringIO, Console]:
    screen = io.StringIO()
    return screen, Console(file=screen, width=40, force_terminal=False)


def test_each_new_event_is_a_line_with_its_time(tmp_path: Path) -> None:
    journal, (screen, console) = Journal(tmp_path / "journal.jsonl"), _screen()
    journal.write(SiteEnrolled(site="before", bytes_up=1))
    lines = JournalLines(journal.path, console)
    began = datetime.now().astimezone().replace(microsecond=0)
    event = SiteAnswered(
        round=2, site="east", bytes_up=10_260_000, bytes_down=1, seconds={"train": 1.25}, clipped=0
    )
    journal.write(event)
    journal.write(RoundCountersigned(round=2, site="east", record_sha256="", signature=""))
    journal.write(RecordWitnessed(run="a", round=2, record=""))
    assert len(lines.look()) == 3
    assert lines.look() == []
    (told,) = screen.getvalue().splitlines()  # not folded, though the screen is narrow
    time, text = told[:19], told[19:]
    assert text == "  round 2: east answered: train 1.2 s; 10.3 MB up"
    assert began <= datetime.fromisoformat(time).astimezone() <= datetime.now(UTC)


def test_lines_name_the_round_the_site_and_what_happened() -> None:
    assert line_of(RoundStarted(round=1, sites=("a", "b"))) == "round 1: asked 2 sites for updates"
    assert line_of(SiteEnrolled(site="west", bytes_up=1)) == "west enrolled"
    failed = SiteFailed(round=0, site="west", code="data", sentence="No X-rays.")
    assert line_of(failed) == "before round 1: west is not in the round (data): No X-rays."
    item = LeftItem(what="update", protection="Paillier", bytes=7_200_000)
    left = LeftHospital(round=1, site="west", items=(item,))
    assert line_of(left) == "round 1: west sent update (7.2 MB)"


def test_a_study_begins_with_what_it_takes_of_each_sites_line() -> None:
    assert line_of(started(kept_bytes=2_000_000)) == (
        "study thorax began: 3 sites, 4 rounds; an update is 1,000 integers; "
        "protection: Paillier, 3072 bits; each site sends 7.2 MB and receives 7.2 MB a round, "
        "28.8 MB and 0.0 kB in all; the coordinator keeps ciphertexts: 2.0 MB"
    )


def test_a_site_cannot_style_the_terminal_or_steer_it(tmp_path: Path) -> None:
    journal, (screen, console) = Journal(tmp_path / "journal.jsonl"), _screen()
    lines = JournalLines(journal.path, console)
    sentence = "[red]x[/] \x1b]0;title\x07\nround 1: closed\u202e"
    journal.write(SiteFailed(round=1, site="west", code="data", sentence=sentence))
    lines.look()
    (told,) = screen.getvalue().splitlines()
    assert told.endswith("(data): [red]x[/] �]0;title��round 1: closed�")


def test_what_is_wrong_with_a_journal_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    journal, (screen, console) = Journal(tmp_path / "journal.jsonl"), _screen()
    lines = JournalLines(journal.path, console)
    with journal.path.open("w") as file:
        file.write('{"version":9,"event":"study_closed"}\n' * 2)
    for _ in range(3):
        assert lines.look() == []
    (told,) = screen.getvalue().splitlines()
    assert "line 1: is of journal version 9" in told


def test_a_journal_that_is_replaced_ends_nothing(tmp_path: Path) -> None:
    journal, (screen, console) = Journal(tmp_path / "journal.jsonl"), _screen()
    journal.write(SiteEnrolled(site="west", bytes_up=1))
    lines = JournalLines(journal.path, console)
    journal.path.unlink()
    for _ in range(3):
        assert lines.look() == []
    (told,) = screen.getvalue().splitlines()
    assert "cut or replaced" in told


def test_a_site_tells_each_phase_of_its_work_as_it_begins(tmp_path: Path) -> None:
    phase, (screen, console) = Phase(tmp_path), _screen()
    lines = PhaseLines(tmp_path, console)
    lines.look()
    for number, name in ((0, "enroll"), (1, "train"), (1, "train"), (2, "train")):
        with phase.enter(name, number) as step:
            lines.look()
            step(1, 1)
            lines.look()
    phase.finish(2)
    lines.look()
    told = [line[21:] for line in screen.getvalue().splitlines()]
    assert told == ["before round 1: enrolling", "round 1: training", "round 2: training"]
