"""What `ppfl site run`, `ppfl coordinator run` and `ppfl simulate` print as it happens."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
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
from sites.upload import Upload
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


def _told(screen: io.StringIO) -> list[str]:
    return [line[21:] for line in screen.getvalue().splitlines()]


def test_each_tenth_of_an_answer_that_has_left_is_a_line(tmp_path: Path) -> None:
    Phase(tmp_path).finish(2, of=2_000_000)
    screen, console = _screen()
    lines, upload = PhaseLines(tmp_path, console), Upload(tmp_path)
    upload.begin()
    lines.look()
    assert _told(screen) == ["round 2: sending"]
    state = tmp_path / "phase.json"
    for percent in (3, 9, 10, 19, 35, 35, 36, 30, 41):  # at 30 an object had broken off
        sent = percent * 20_000
        state.write_text(f'{{"round":2,"phase":"upload","done":{sent},"of":2000000}}')
        lines.look()
    assert [line.split(", ")[1] for line in _told(screen)[1:]] == [
        "10 % of 2.0 MB have left",
        "35 % of 2.0 MB have left",
        "41 % of 2.0 MB have left",
    ]
    upload.end()
    lines.look()
    lines.look()
    assert _told(screen)[4:] == ["round 2: sending, 100 % of 2.0 MB have left"]


def test_an_answer_that_is_sent_at_once_is_told_as_sent(tmp_path: Path) -> None:
    Phase(tmp_path).finish(1, of=1_000_000)
    screen, console = _screen()
    lines, upload = PhaseLines(tmp_path, console), Upload(tmp_path)
    for _ in range(2):  # the whole of it anew, because the coordinator asks again
        Phase(tmp_path).finish(1, of=1_000_000)
        upload.begin()
        lines.look()
        request = httpx.Request("POST", "https://localhost", content=bytes(1_000_000))
        with upload.counting(request):
            assert isinstance(request.stream, httpx.SyncByteStream)
            assert len(b"".join(request.stream)) == 1_000_000
        lines.look()
        upload.end()
        lines.look()
    told = ["round 1: sending", "round 1: sending, 100 % of 1.0 MB have left"]
    assert _told(screen) == 2 * told


def test_a_slow_line_is_told_every_ten_seconds_while_something_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    Phase(tmp_path).finish(2, of=100_000_000)
    screen, console = _screen()
    lines, upload = PhaseLines(tmp_path, console), Upload(tmp_path)
    upload.begin()
    lines.look()
    for second, megabytes in ((5, 1), (10, 2), (15, 3), (20, 4), (40, 4), (50, 4)):
        now = 1000.0 + second
        state = f'{{"round":2,"phase":"upload","done":{megabytes}000000,"of":100000000}}'
        (tmp_path / "phase.json").write_text(state)
        lines.look()
    assert _told(screen) == [
        "round 2: sending",
        "round 2: sending, 2 % of 100.0 MB have left",
        "round 2: sending, 4 % of 100.0 MB have left",
    ]
    upload.end()
