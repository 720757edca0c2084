"""Who gets in, what every answer says, and what the pages get."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import coordinator.dashboard
from coordinator.dashboard.access import SESSION_S, Access
from coordinator.dashboard.app import _router
from tests.coordinator.dashboard.pages import TOKEN, Client, serving
from tests.coordinator.dashboard.studies import started, study, write

_HERE = Path(coordinator.dashboard.__file__).parent
_HTML = {"accept": "text/html"}
_NAME = "a study & more/run <1>"  # nothing that a page or an address may take for its own


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run that has ended and one of an awkward name."""
    (write(tmp_path / "covid", *study()) / "report.html").write_text("<h1>Report</h1>")
    write(tmp_path / _NAME, started())
    return tmp_path


@pytest.fixture
def stranger(runs: Path) -> Iterator[Client]:
    with closing(Client(runs)) as client:
        yield client


@pytest.fixture
def reader(stranger: Client) -> Client:
    """Someone who has logged in."""
    answer = stranger.post("/login", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return stranger


def _paths() -> list[str]:
    paths = {str(getattr(route, "path", "")) for route in _router.routes}
    return sorted(path.replace("{name:path}", "covid") for path in paths - {"/login"})


@pytest.mark.parametrize("path", _paths())
def test_a_stranger_gets_nothing_but_the_log_in(path: str, stranger: Client) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert stranger.get(path, headers=_HTML).headers["location"] == "/login"
    assert stranger.get("/login").status_code == 200


@pytest.mark.parametrize("told", ["", "wrong", TOKEN[:-1], TOKEN + "x", "é" * 64, "%00"])
def test_a_wrong_token_lets_nobody_in(told: str, stranger: Client) -> None:
    answer = stranger.post("/login", data={"token": told})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "not the token" in answer.text
    assert stranger.get("/").status_code == 401


def test_a_huge_form_is_not_read(stranger: Client) -> None:
    assert stranger.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413


def test_the_session_is_out_of_scripts_reach_and_goes_to_no_other_site(runs: Path) -> None:
    for secure in (False, True):
        with closing(Client(runs, secure=secure)) as client:
            cookie = client.post("/login", data={"token": TOKEN}).headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert ("secure" in cookie) == secure
            assert TOKEN.lower() not in cookie


def test_a_session_ends_with_its_time_with_the_token_and_with_logging_out(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, now = Access(TOKEN), time.time()
    session = access.grant()
    assert access.admits(session)
    assert Access(TOKEN).admits(session)  # a restart ends no session
    assert not Access("another" * 8).admits(session)
    until, _, code = session.partition(".")
    for forged in ("", ".", f"{int(until) + 1}.{code}", f"x.{code}", session[:-1], "é.é"):
        assert not access.admits(forged)
    monkeypatch.setattr(time, "time", lambda: now + SESSION_S + 2)
    assert not access.admits(session)
    monkeypatch.undo()
    assert reader.get("/").status_code == 200
    assert reader.post("/logout").status_code == 303
    assert reader.get("/").status_code == 401


def test_every_answer_keeps_others_out(reader: Client) -> None:
    for path in ("/", "/login", "/runs/covid", "/runs/none", "/log/covid", "/assets/run.js", "/x"):
        headers = reader.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_another_sites_form_and_another_name_of_this_machine_are_refused(
    reader: Client,
) -> None:
    other = {"sec-fetch-site": "cross-site"}
    assert reader.post("/logout", headers=other).status_code == 403
    # the last two are no host names, which must not make them this machine's
    for host in ("rebound.example", "127.0.0.1.rebound.example:80", "re_bound.example", ""):
        assert reader.get("/", headers={"host": host}).status_code == 400
    for host in ("localhost", "LOCALHOST:8000"):
        assert reader.get("/", headers={"host": host}).status_code == 200


def test_a_host_header_opens_no_path_to_a_stranger(tmp_path: Path) -> None:
    write(tmp_path / "covid", *study())
    with closing(Client(tmp_path)) as stranger:
        for host in ("x/login", "x/assets/", "x/login?"):
            assert stranger.get("/log/covid", headers={"host": host}).status_code in (400, 401)


def test_pages_load_nothing_from_elsewhere_and_have_no_inline_script_or_style() -> None:
    texts = {path: path.read_text() for path in _HERE.rglob("*") if path.suffix in _LOADED}
    assert len(texts) >= 10
    for path, text in texts.items():
        own = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|@import|<style|style=|\son\w+=\"|innerHTML", own), path
        for script in re.findall(r"<script([^>]*)>", text):
            assert 'src="/assets/' in script


_LOADED = {".js", ".css", ".j2", ".svg"}


def test_a_page_shows_awkward_names_as_text(reader: Client) -> None:
    answer = reader.get(f"/runs/{_NAME}")
    assert answer.status_code == 200
    assert "run &lt;1&gt;" in answer.text
    assert "run <1>" not in answer.text


@pytest.mark.parametrize("path", ["runs", "log", "events", "report"])
@pytest.mark.parametrize("name", ["none", "../covid", "..%2f..%2fetc", "covid/journal.jsonl", ""])
def test_there_is_nothing_but_the_runs(path: str, name: str, reader: Client) -> None:
    assert reader.get(f"/{path}/{name}").status_code == 404


def test_the_report_is_shown_without_any_script(reader: Client) -> None:
    answer = reader.get("/report/covid")
    assert answer.text == "<h1>Report</h1>"
    policy = answer.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "script" not in policy
    assert reader.get(f"/report/{_NAME}").status_code == 404


def test_the_log_is_asked_for_with_a_filter(reader: Client) -> None:
    found = reader.get("/log/covid", params={"kind": "rounds", "text": "closed"}).json()
    assert [entry["round"] for entry in found["entries"]] == [4, 3, 2, 1]
    assert reader.get("/log/covid", params={"before": -1}).status_code == 422


def test_one_runs_dashboard_shows_it_at_once(runs: Path) -> None:
    with closing(Client(runs / "covid")) as client:
        client.post("/login", data={"token": TOKEN})
        assert client.get("/").headers["location"] == "/runs/covid"


def test_events_come_as_the_journal_grows_and_go_on_where_they_ended(tmp_path: Path) -> None:
    events = list(study())
    write(tmp_path / "covid", *events[:6])
    with serving(tmp_path) as address, httpx.Client(base_url=address, timeout=30) as client:
        client.post("/login", data={"token": TOKEN})
        with client.stream("GET", "/events/covid") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            first, place = _message(lines)
            assert first["reset"]
            write(tmp_path / "covid", *events[6:])
            second, place = _message(lines)
            assert second["parts"]["now"]["state"] == "closed"
            assert not second["reset"]
        write(tmp_path / "covid", started(run="b2"))
        headers = {"last-event-id": place}
        with client.stream("GET", "/events/covid", headers=headers) as answer:
            third, _ = _message(answer.iter_lines())
        assert third["reset"]
        assert third["parts"]["study"]["run"] == "b2"
        with client.stream("GET", "/events") as answer:
            rows, _ = _message(answer.iter_lines())
        assert [row["name"] for row in rows] == ["covid"]


def _message(lines: Iterator[str]) -> tuple[dict, str]:
    """The next message and its id."""
    data, place = "", ""
    for line in lines:
        kind, _, value = line.partition(": ")
        if kind == "data":
            data = value
        elif kind == "id":
            place = value
        elif not line and data:
            return json.loads(data), place
    raise AssertionError("the stream ended")
