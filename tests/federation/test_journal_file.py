from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ppfl.errors import RunError
from ppfl.federation import (
    Journal,
    JournalReader,
    Line,
    read_events,
    read_journal,
    read_last_event,
)
from ppfl.federation.journal import (
    AnyEvent,
    Event,
    RoundClosed,
    RoundStarted,
    SiteFailed,
    StudyFailed,
)

_CLOSED = RoundClosed(round=1, sites=("a",), seconds=1.5, total_sha256="0" * 64)
_FAILED = StudyFailed(round=1, code="quorum", sentence="x")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "run" / "journal.jsonl")


def _without_link(events: list[Event]) -> list[Event]:
    return [event.model_copy(update={"previous": ""}) for event in events]


def _read(path: Path) -> list[Event]:
    return _without_link(list(read_journal(path)))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_each_line_has_the_digest_of_the_one_before_whoever_wrote_it(journal: Journal) -> None:
    for _ in range(3):
        Journal(journal.path).write(_CLOSED)
    lines = journal.path.read_bytes().splitlines()
    found = [event.previous for event in read_journal(journal.path)]
    assert found == ["", _sha256(lines[0]), _sha256(lines[1])]


def test_events_of_one_kind_are_found_and_a_torn_one_is_none(journal: Journal) -> None:
    assert list(read_events(journal.path, RoundClosed)) == []
    for event in (_CLOSED, _FAILED, _CLOSED):
        journal.write(event)
    with journal.path.open("ab") as file:
        file.write(journal.path.read_bytes().splitlines()[0][:-5])
    assert len(read_journal(journal.path)) == 3
    assert _without_link(list(read_events(journal.path, RoundClosed))) == [_CLOSED] * 2


def test_a_torn_line_stays_and_is_bound_too(journal: Journal) -> None:
    journal.write(_CLOSED)
    first = journal.path.read_bytes()
    with journal.path.open("ab") as file:
        file.write(b'{"event": "round_cl')
    assert _read(journal.path) == [_CLOSED]
    assert read_last_event(journal.path) == _CLOSED
    journal.write(_FAILED)
    assert _read(journal.path) == [_CLOSED, _FAILED]
    assert read_journal(journal.path)[1].previous == _sha256(first + b'{"event": "round_cl')
    journal.write(_CLOSED)
    last = journal.path.read_bytes().splitlines()[-2]
    assert read_journal(journal.path)[-1].previous == _sha256(last)


def test_a_line_that_lacks_nothing_but_its_end_is_an_event(journal: Journal) -> None:
    journal.write(_CLOSED)
    whole = journal.path.read_bytes().rstrip()
    journal.path.write_bytes(whole)
    assert _read(journal.path) == [_CLOSED]
    journal.write(_FAILED)
    assert _read(journal.path) == [_CLOSED, _FAILED]
    assert read_journal(journal.path)[1].previous == _sha256(whole)


def test_lines_longer_than_a_block_are_found_from_the_end(journal: Journal) -> None:
    long = StudyFailed(round=1, code="quorum", sentence="x" * 300_000)
    for event in (_CLOSED, long, _FAILED):
        journal.write(event)
    before = journal.path.read_bytes().splitlines()
    assert read_journal(journal.path)[2].previous == _sha256(before[1])
    journal.path.write_bytes(b"\n".join([*before[:2], b"torn" * 50_000, b"", b""]))
    last = read_last_event(journal.path)
    assert isinstance(last, StudyFailed)
    assert last.sentence == long.sentence


def test_what_is_no_event_of_this_version_is_said(journal: Journal) -> None:
    journal.write(_CLOSED)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + b'{"version":2,"event":"unheard_of"}\n')
    with pytest.raises(RunError, match="line 2: no event of version 2"):
        read_journal(journal.path)
    for version in (b"1", b"3"):
        journal.path.write_bytes(whole.replace(b'"version":2', b'"version":' + version))
        for look in (read_journal, read_last_event, lambda path: Journal(path).write(_FAILED)):
            with pytest.raises(RunError, match=f"is of journal version {version.decode()}") as told:
                look(journal.path)
            assert "new folder" in told.value.hint
    with pytest.raises(RunError, match="no such journal"):
        read_journal(journal.path.with_name("none"))
    assert read_last_event(journal.path.with_name("none")) is None


def test_a_reader_gets_each_line_once_when_it_has_ended(journal: Journal) -> None:
    reader = JournalReader(journal.path)
    assert reader.read() == []
    for event in (_CLOSED, _FAILED):
        journal.write(event)
    lines = [line for _ in range(2) for line in reader.read(most=10)]
    assert [line.kind for line in lines] == ["round_closed", "study_failed"]
    assert [line.number for line in lines] == [1, 2]
    assert reader.read() == []
    with journal.path.open("ab") as file:
        file.write(b'{"version":2')
    assert reader.read() == []
    rest = reader.unfinished()
    assert rest is not None
    assert (rest.number, rest.kind, rest.event()) == (3, "", None)
    journal.write(_CLOSED)
    torn, last = reader.read()
    assert torn.event() is None
    assert last.event() == read_last_event(journal.path)
    assert reader.offset == journal.path.stat().st_size
    assert journal.path.read_bytes()[last.start :] == last.raw + b"\n"


@pytest.mark.parametrize("rest", [0, 1, 500, 10**6])
@pytest.mark.parametrize("batch", [1, 700, 10**6])
def test_a_reader_passes_over_all_but_the_end(
    rest: int, batch: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.federation.journal_file._BATCH", batch)
    for number in range(20):
        journal.write(RoundStarted(round=number, sites=("a", "b")) if number % 3 else _CLOSED)
    with journal.path.open("ab") as file:
        file.write(b'{"version":2')  # not a line yet
    lines = JournalReader(journal.path).read(most=10**6)
    reader = JournalReader(journal.path)
    found = reader.skip(rest=rest, kind="round_closed")
    end = journal.path.stat().st_size - rest
    assert max(end - 500, 0) <= reader.offset < max(end, 0) + 500
    left = reader.read(most=10**6)
    passed = lines[: len(lines) - len(left)]
    assert passed + left == lines
    assert found == next((line for line in passed[::-1] if line.kind == "round_closed"), None)
    assert reader.skip(kind="round_closed") is None


def test_a_reader_says_if_its_file_was_exchanged(journal: Journal) -> None:
    for change in ("cut", "replaced", "removed"):
        journal.write(_CLOSED)
        reader = JournalReader(journal.path)
        reader.skip()
        whole = journal.path.read_bytes()
        if change == "cut":
            journal.path.write_bytes(whole[:-9])
        else:
            journal.path.rename(journal.path.with_name("older"))
        if change == "replaced":
            journal.path.write_bytes(whole + whole)
        with pytest.raises(RunError, match="cut or replaced"):
            reader.read()


def test_two_may_write_at_one_time(journal: Journal) -> None:
    def write(name: str) -> None:
        for number in range(20):
            Journal(journal.path).write(RoundStarted(round=number, sites=(name,)))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, "ab"))
    lines = journal.path.read_bytes().splitlines()
    events = read_journal(journal.path)
    assert len(events) == 40
    assert [event.previous for event in events[1:]] == [_sha256(line) for line in lines[:-1]]


def test_many_events_are_looked_through_and_few_are_parsed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = SiteFailed(round=1, site="a", code="deadline", sentence="No answer within 3600 s.")
    line = failed.model_copy(update={"previous": "0" * 64}).model_dump_json().encode() + b"\n"
    journal.path.parent.mkdir()
    journal.path.write_bytes(line * 20_000)
    journal.write(_CLOSED)
    parsed, parse = [], Line.event

    def note(line: Line) -> AnyEvent | None:
        parsed.append(line)
        return parse(line)

    monkeypatch.setattr(Line, "event", note)
    reader, found = JournalReader(journal.path), 0
    while lines := reader.read():
        found += sum(line.kind == "site_failed" for line in lines)
    assert (found, parsed) == (20_000, [])
    assert isinstance(read_last_event(journal.path), RoundClosed)
    assert len(parsed) == 1
