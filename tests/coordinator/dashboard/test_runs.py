"""Journals that grow, and what is said of those that are not as they should be."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import coordinator.dashboard.log
from coordinator.dashboard.log import Filter
from coordinator.dashboard.runs import LiveRun, Runs
from coordinator.dashboard.watch import Watch
from ppfl.errors import RunError
from ppfl.federation.journal import SiteFailed
from tests.coordinator.dashboard.studies import released, started, study, write, write_fast


def _read(run: LiveRun) -> dict[str, Any]:
    while run.look():
        pass
    change = run.increment("")
    assert change is not None
    found: dict[str, Any] = json.loads(change[0])
    return found


def test_a_page_gets_what_is_new_and_only_that(tmp_path: Path) -> None:
    events = list(study())
    run = LiveRun("thorax", write(tmp_path, *events[:6]))
    assert _read(run)["reset"]
    _, place = run.increment("") or ("", "")
    assert run.increment(place) is None
    write(tmp_path, events[6])
    run.look()
    text, later = run.increment(place) or ("", "")
    found = json.loads(text)
    assert not found["reset"]
    assert set(found["parts"]["sites"]) == {"north"}
    assert "study" not in found["parts"]
    assert later != place


def test_a_page_of_another_server_gets_everything(tmp_path: Path) -> None:
    write(tmp_path, *study())
    before, after = LiveRun("thorax", tmp_path), LiveRun("thorax", tmp_path)
    for run in (before, after):
        _read(run)
    _, place = before.increment("") or ("", "")
    text, _ = after.increment(place) or ("", "")
    assert json.loads(text)["reset"]


@pytest.mark.parametrize("place", ["x", "-", "--9", "a-0-x", "a-0-99999999999999999999"])
def test_a_place_that_never_was_gets_everything(place: str, tmp_path: Path) -> None:
    run = LiveRun("thorax", write(tmp_path, started()))
    _read(run)
    text, _ = run.increment(place) or ("", "")
    assert json.loads(text)["reset"]


def test_a_torn_last_line_waits_for_its_end_and_is_left_out_if_none_comes(tmp_path: Path) -> None:
    write(tmp_path, started())
    journal = tmp_path / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"version":2,"ti')
    run = LiveRun("thorax", tmp_path)
    found = _read(run)
    assert (found["journal"]["torn"], found["journal"]["trouble"]) == (0, "")
    write(tmp_path, SiteFailed(round=1, site="north", code="deadline", sentence="Late."))
    found = _read(run)
    assert (found["journal"]["torn"], found["journal"]["lines"]) == (1, 3)
    assert found["parts"]["sites"]["north"]["phase"] == "late"


def test_what_stands_before_an_event_of_another_version_is_shown(tmp_path: Path) -> None:
    write(tmp_path, *list(study())[:6])
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"version":9,"event":"study_closed"}\n')
    run = LiveRun("thorax", tmp_path)
    found = _read(run)
    assert "line 7" in found["journal"]["trouble"]
    assert "version 9" in found["journal"]["trouble"]
    assert found["parts"]["now"]["round"] == 1
    assert run.to_overview()["trouble"]


@pytest.mark.parametrize("figures", [{}, {"classes": 5}, {"accuracy": 7}, {"images": "many"}])
def test_what_stands_before_figures_that_someone_changed_is_shown(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    changed = released(1).model_dump(mode="json")
    changed["metrics"] = changed["metrics"] | figures if figures else {}
    write(tmp_path, *list(study())[:6])
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(json.dumps(changed) + "\n")
    run = LiveRun("thorax", tmp_path)
    found = _read(run)
    assert "line 7" in found["journal"]["trouble"]
    assert found["parts"]["now"]["round"] == 1
    assert not found["parts"].get("validation")


def test_a_journal_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = LiveRun("thorax", write(tmp_path / "run", *study()))
    _read(run)
    _, place = run.increment("") or ("", "")
    write(tmp_path / "new", started(study="another", run="b2"))
    os.replace(tmp_path / "new" / "journal.jsonl", tmp_path / "run" / "journal.jsonl")
    run.look()
    found = _read(run)
    assert found["parts"]["study"]["study"] == "another"
    text, _ = run.increment(place) or ("", "")
    assert json.loads(text)["reset"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_journal_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    run = LiveRun("thorax", write(tmp_path, started()))
    (tmp_path / "journal.jsonl").chmod(0)
    assert "cannot be read" in _read(run)["journal"]["trouble"]


def test_runs_are_found_in_a_run_in_a_folder_of_runs_and_below_coordinators(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.look()
    assert list(runs) == []
    write(tmp_path / "covid", started())
    (tmp_path / "coordinator" / "run").mkdir(parents=True)
    (tmp_path / "coordinator" / "run" / "study.toml").touch()  # prepared, not begun
    (tmp_path / "empty").mkdir()
    runs = Runs(tmp_path)
    runs.look()
    assert {run.name for run in runs} == {"covid", "coordinator/run"}
    assert {run.to_overview()["state"] for run in runs} == {"running", "not begun"}
    single = Runs(tmp_path / "covid")
    single.look()
    assert [run.name for run in single] == ["covid"]
    assert single.single


def test_a_run_that_appears_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(tmp_path)
    runs.look()
    write(tmp_path / "covid", started())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 10)
    runs.look()
    assert runs.get("covid") is not None
    assert runs.get("../covid") is None


@pytest.mark.parametrize("missing", ["nowhere", "file"])
def test_a_folder_that_is_missing_is_an_error(missing: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="no such folder") as caught:
        Runs(tmp_path / missing)
    assert caught.value.hint


def test_the_log_is_filtered_by_kind_site_and_text(tmp_path: Path) -> None:
    lost = SiteFailed(round=1, site="north", code="deadline", sentence="No answer within 60 s.")
    run = LiveRun("thorax", write(tmp_path, *study(), lost))
    _read(run)

    def texts(**chosen: str) -> list[str]:
        return [entry["text"] for entry in run.log(Filter(**chosen))["entries"]]

    assert len(texts()) == 1 + 3 + 4 * 6 + 3 + 1
    assert texts()[0].startswith("is not in the round")
    assert texts(kind="alarms") == ["is not in the round (deadline): No answer within 60 s."]
    assert len(texts(kind="rounds")) == 8
    assert len(texts(site="north")) == 6
    assert texts(text="NO ANSWER") == texts(kind="alarms")
    assert texts(site="nor") == texts(text="no such text") == []


def test_the_log_comes_in_pages_and_goes_on_from_a_line(tmp_path: Path) -> None:
    run = LiveRun("thorax", write_fast(tmp_path, study(rounds=60)))
    _read(run)
    first = run.log(Filter())
    assert first["more"]
    oldest = first["entries"][-1]["number"]
    second = run.log(Filter(), before=oldest)
    assert second["entries"][0]["number"] == oldest - 1
    newest = first["entries"][0]["number"]
    assert run.log(Filter(), after=newest)["entries"] == []
    assert [e["number"] for e in run.log(Filter(), after=newest - 2)["entries"]] == [
        newest,
        newest - 1,
    ]


def test_a_long_journal_is_shown_at_once_and_read_on_by_the_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.dashboard.log, "MOST_LINES", 1000)
    sites = [f"hospital-{number:02d}" for number in range(50)]
    events = study(sites=sites, rounds=100)
    run = LiveRun("long", write_fast(tmp_path, itertools.islice(events, 1 + 50 + 99 * 53 + 40)))
    began = time.thread_time()
    assert run.look()  # more is to come
    assert time.thread_time() - began < 1
    text, _ = run.increment("") or ("", "")
    found = json.loads(text)
    assert found["parts"]["study"]["study"] == "thorax"
    assert 0 < found["journal"]["read"] < 0.5
    now, phases = found["parts"]["now"], Counter(_phases(found))
    assert (now["state"], now["round"], now["complete"]) == ("running", 100, 99)
    assert phases == {"done": 39, "working": 11}
    assert len(found["parts"]["rounds"]) < 99  # of the last lines
    assert run.log(Filter())["last"] == found["journal"]["lines"] == 1 + 50 + 99 * 53 + 40
    write_fast(tmp_path, events)  # the rest, while it is still read
    assert run.look()
    text, _ = run.increment("") or ("", "")
    assert json.loads(text)["parts"]["now"]["state"] == "closed"
    found = _read(run)
    lines = 1 + 50 + 100 * 53 + 3
    assert (found["journal"]["lines"], found["journal"]["read"]) == (lines, 1)
    assert len(found["parts"]["rounds"]) == 100
    assert found["parts"]["sites"]["hospital-07"]["left"]["updates"][0] == 100
    assert run.log(Filter())["kept"] == lines - 1000 + 1


def _phases(found: dict[str, Any]) -> list[str]:
    return [site["phase"] for site in found["parts"]["sites"].values()]


def test_of_a_long_journal_the_last_run_is_shown_at_once(tmp_path: Path) -> None:
    sites = [f"hospital-{number:02d}" for number in range(20)]
    for run in ("a1", "b2"):
        write_fast(tmp_path, study(sites=sites, rounds=100, run=run, study=f"study {run}"))
    live = LiveRun("long", tmp_path)
    assert live.look()
    text, _ = live.increment("") or ("", "")
    found = json.loads(text)
    assert found["parts"]["study"]["run"] == "b2"
    assert found["parts"]["now"]["state"] == "closed"
    assert found["journal"]["read"] < 1
    assert _read(live)["parts"]["study"]["earlier_runs"] == 1


def test_of_a_long_journal_that_is_damaged_what_stands_before_is_shown(tmp_path: Path) -> None:
    events = study(sites=[f"hospital-{number:02d}" for number in range(50)], rounds=100)
    write_fast(tmp_path, itertools.islice(events, 3000))
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"version":9,"event":"study_closed"}\n')
    write_fast(tmp_path, events)
    found = _read(LiveRun("long", tmp_path))
    assert "line 3001" in found["journal"]["trouble"]
    assert (found["parts"]["now"]["state"], found["journal"]["lines"]) == ("running", 3000)


def test_of_a_long_journal_that_is_replaced_while_it_is_read_the_new_one_is_shown(
    tmp_path: Path,
) -> None:
    sites = [f"hospital-{number:02d}" for number in range(50)]
    run = LiveRun("long", write_fast(tmp_path / "run", study(sites=sites, rounds=100)))
    assert run.look()
    write(tmp_path / "new", started(study="another", run="b2"))
    os.replace(tmp_path / "new" / "journal.jsonl", tmp_path / "run" / "journal.jsonl")
    run.look()
    assert _read(run)["parts"]["study"]["study"] == "another"


def test_a_folder_that_may_not_be_entered_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `lost+found` on a disk of its own; root may enter it, so it is played here."""
    (tmp_path / "closed").mkdir()
    write(tmp_path / "open", started())
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if "closed" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    runs = Runs(tmp_path)
    runs.look()
    assert [run.name for run in runs] == ["open"]


def test_pages_stay_live_when_one_look_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coordinator.dashboard.watch._LOOK_S", 0.01)
    runs = Runs(tmp_path)
    looks: list[int] = []

    def look() -> bool:
        looks.append(1)
        if len(looks) == 2:
            raise RuntimeError("what nobody thought of")
        return False

    monkeypatch.setattr(runs, "look", look)

    async def watch_on() -> None:
        watch = Watch(runs)
        async with watch.running(), asyncio.timeout(60):
            async for _ in watch.looks():
                if len(looks) > 3:
                    break

    asyncio.run(watch_on())
    assert "could not be looked at" in caplog.text
