"""The pages in a real browser: Debian's chromium, where there is one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ppfl.federation.journal import Event, RoundStarted, SiteFailed
from ppfl.report import write_report
from tests.coordinator.dashboard.pages import TOKEN, serving
from tests.coordinator.dashboard.studies import SITES, answered, started, study, write, write_fast
from tests.deployed import free_port
from tests.report.runs import events as reported
from tests.report.runs import write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
browsing = pytest.importorskip("tests.coordinator.dashboard.browsing")
# where the whole suite is to run, no browser is a failure
pytestmark = pytest.mark.skipif(
    browsing.CHROMIUM is None and os.environ.get("CI") != "true", reason="chromium is not installed"
)

_PHONE = {"width": 360, "height": 740}
_Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages are kept: $PPFL_SCREENSHOTS, or with pytest's own files."""
    folder = os.environ.get("PPFL_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def page(browser: Any) -> Iterator[_Page]:
    """A page of someone who has logged in; no script failed on it and it asked nobody else."""
    with browsing.logged_in(browser) as page:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: _note_stranger(request.url, wrong))
        page.on("console", lambda message: _note_policy(message.text, wrong))
        yield page
        assert wrong == []


def _note_stranger(url: str, wrong: list[str]) -> None:
    if not url.startswith("http://127.0.0.1:"):
        wrong.append(url)


def _note_policy(text: str, wrong: list[str]) -> None:
    if "Content Security Policy" in text:
        wrong.append(text)


def _says(page: _Page, place: str, text: str) -> None:
    playwright.expect(page.locator(place)).to_contain_text(text)


def _now(event: Event, *, ago_s: float = 0.0) -> Event:
    return event.model_copy(update={"time": datetime.now(UTC) - timedelta(seconds=ago_s)})


def test_a_live_study_from_its_first_event_to_its_last(
    page: _Page, tmp_path: Path, shots: Path
) -> None:
    folder = tmp_path / "thorax"
    folder.mkdir()
    (folder / "study.toml").touch()
    events = list(study())
    with serving(folder) as address:
        page.goto(address)
        _says(page, "#sentence", "has not begun")
        write(folder, *events[:4])
        _says(page, "#sentence", "are enrolling")
        _says(page, "#site-rows tr:nth-child(2)", "enrolled")
        write(folder, *events[4:7])
        _says(page, "#sentence", "Round 1 of 4: 2 of 3 sites have answered")
        _says(page, "#site-rows tr:nth-child(3)", "working")
        write(folder, *events[7:10])
        _says(page, "#figures", "before training")
        asked = _now(RoundStarted(round=2, sites=SITES))
        seconds = {"open": 0.1, "evaluate": 0.1, "train": 600.0, "seal": 0.1}
        north = answered(2, "north", seconds=seconds, time=asked.time + timedelta(seconds=600.3))
        write(folder, asked, north, _now(RoundStarted(round=3, sites=SITES), ago_s=60))
        _says(page, "#site-rows tr:nth-child(2)", "≈ training")
        part = page.locator("#site-rows tr:nth-child(2) progress").evaluate("bar => bar.value")
        assert 0.09 < part < 0.5
        write(folder, SiteFailed(round=3, site="north", code="flower-404", sentence="It is gone."))
        _says(page, "#alarms", "Site lost: north is not in round 3: It is gone.")
        _says(page, "#alarms", "Quorum at risk")
        write(folder, *events[10:])
        _says(page, "#state", "closed")
        _says(page, "#test", "Effusion")
        playwright.expect(page.locator("#alarms li")).to_have_count(0)
        playwright.expect(page.locator("#curves path.curve")).to_have_count(4 + 2 + 3 + 3 + 1 + 2)
        _says(page, "#log-rows tr:first-child", "closed after 4 rounds")
        _says(page, "#left-rows tr:nth-child(2)", "5 · 36.0 MB")
        _says(page, "#left-rows tr:nth-child(2) td:nth-child(5)", "7.5 kB")
        page.screenshot(path=shots / "closed.png", full_page=True)


def test_a_run_may_have_any_name(page: _Page, tmp_path: Path) -> None:
    folder = tmp_path / "50 %" / "which #1?"
    folder.mkdir(parents=True)
    write(folder, *study())
    with serving(tmp_path) as address:
        page.goto(address)
        page.get_by_role("link", name="thorax").click()
        _says(page, "#state", "closed")
        _says(page, "#log-rows", "harbour")


def test_a_page_comes_back_after_the_server_was_restarted(page: _Page, tmp_path: Path) -> None:
    port, events = free_port(), list(study())
    write(tmp_path, *events[:6])
    with serving(tmp_path, port=port) as address:
        page.goto(address)
        _says(page, "#sentence", "1 of 3 sites have answered")
        page.evaluate("window.same = true")
    _says(page, "#link", "no connection")
    write(tmp_path, *events[6:])
    with serving(tmp_path, port=port):
        _says(page, "#state", "closed")
        _says(page, "#link", "live")
        assert page.evaluate("window.same")


def test_the_log_is_filtered(page: _Page, tmp_path: Path) -> None:
    lost = SiteFailed(round=2, site="north", code="deadline", sentence="No answer.")
    write(tmp_path, *study(), lost)
    rows = page.locator("#log-rows tr")
    with serving(tmp_path) as address:
        page.goto(address)
        playwright.expect(rows).to_have_count(32)
        page.locator("[name=kind]").select_option("alarms")
        playwright.expect(rows).to_have_count(1)
        page.locator("[name=kind]").select_option("")
        page.locator("[name=site]").select_option("valley")
        playwright.expect(rows).to_have_count(5)
        page.locator("[name=text]").fill("ENROLLED")
        playwright.expect(rows).to_have_count(1)
        write(tmp_path, lost)  # does not pass
        page.locator("[name=text]").fill("nothing like it")
        _says(page, "#log-found", "nothing passes")


def test_all_is_reached_by_keyboard_from_the_log_in_on(
    page: _Page, tmp_path: Path, shots: Path
) -> None:
    write(tmp_path / "covid", *study())
    page.context.clear_cookies()
    keys = page.keyboard
    with serving(tmp_path) as address:
        page.goto(address)
        page.screenshot(path=shots / "login.png")
        keys.type("not the token")
        keys.press("Enter")
        _says(page, "#wrong", "not the token")
        playwright.expect(page.get_by_label("Token")).to_be_focused()
        keys.type(TOKEN)
        keys.press("Enter")
        _says(page, "#studies", "thorax")
        assert page.locator("#studies th").inner_text() == "thorax\ncovid"  # the folder below it
        page.screenshot(path=shots / "studies.png")
        _tab_to(page, "thorax")
        keys.press("Enter")
        _says(page, "#state", "closed")
        keys.press("Tab")
        assert _focus(page) == "To the content"
        _tab_to(page, "round")
        keys.press("ArrowLeft")
        _says(page, "#round-shown", "3")
        _says(page, "#curves figure:first-child .legend", "0.794")
        _tab_to(page, "As a table")
        keys.press("Enter")
        playwright.expect(page.locator("#metrics-table tbody tr")).to_have_count(5)
        _tab_to(page, "text")
        keys.type("study thorax began")
        playwright.expect(page.locator("#log-rows tr")).to_have_count(1)


def _focus(page: _Page) -> str:
    """What has the focus: its text, or the name or number of a field."""
    told: str = page.evaluate(
        "(({ name, id, textContent }) => name || textContent.trim() || id)(document.activeElement)"
    )
    return told


def _tab_to(page: _Page, what: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if _focus(page) == what:
            return
    raise AssertionError(f"the Tab key leads nowhere near {what}")


@pytest.fixture(scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under way that lost a site, and a closed one with its report."""
    folder = tmp_path_factory.mktemp("runs")
    lost = SiteFailed(round=2, site="north", code="flower-404", sentence="It is gone.")
    write(folder / "running", *list(study())[:12], _now(lost))
    write_report(write_run(folder / "closed", list(reported())))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, _PHONE], ids=["wide", "phone"])
def test_nothing_is_in_the_way_of_anyone(
    scheme: str, size: dict[str, int], page: _Page, folder_of_runs: Path, shots: Path
) -> None:
    """WCAG 2.2 AA as far as axe-core can tell, in both colour schemes, and nothing sticks out."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    with serving(folder_of_runs) as address:
        page.goto(f"{address}/runs/running")
        _says(page, "#alarms", "Site lost")
        playwright.expect(page.locator("#log-rows tr")).to_have_count(13)
        page.locator("#as-table summary").click()
        _check_access(page, shots / f"{scheme}-{size['width']}.png", least=20)
        page.goto(f"{address}/runs/closed")
        _says(page, "#test", "Effusion")
        _check_access(page, shots / f"closed-{scheme}-{size['width']}.png", least=20)
        page.goto(address)
        _says(page, "#studies", "closed")
        _check_access(page, shots / f"studies-{scheme}-{size['width']}.png", least=15)
        page.context.clear_cookies()
        page.goto(address)
        playwright.expect(page.get_by_label("Token")).to_be_visible()
        _check_access(page, shots / f"login-{scheme}-{size['width']}.png", least=10)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, _PHONE], ids=["wide", "phone"])
def test_nothing_is_in_the_way_of_a_reports_readers(
    scheme: str, size: dict[str, int], browser: Any, folder_of_runs: Path, shots: Path
) -> None:
    with browsing.logged_in(browser, color_scheme=scheme, viewport=size) as page:
        page.goto((folder_of_runs / "closed" / "report.html").as_uri())
        _check_access(page, shots / f"report-{scheme}-{size['width']}.png", least=8, options=_WCAG)


_WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def _check_access(
    page: _Page, shot: Path, *, least: int, options: dict[str, list[str]] | None = None
) -> None:
    """At least so many of axe-core's rules applied, and none was broken."""
    page.screenshot(path=shot, full_page=True)
    found = axe.Axe().run(page, options=options).response
    broken = [
        (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]
    ]
    assert broken == []
    assert len(found["passes"]) > least
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_on_paper_there_are_figures_and_no_buttons(page: _Page, tmp_path: Path) -> None:
    write(tmp_path, *study())
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size(_PAPER)
    with serving(tmp_path) as address:
        page.goto(address)
        _says(page, "#state", "closed")
        playwright.expect(page.locator(".bar")).to_be_hidden()
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(0, 0, 0)"
        curves = page.locator("#curves svg[role=img] path.curve")
        playwright.expect(curves).to_have_count(4 + 2 + 3 + 3 + 1 + 2)
        drawn = curves.evaluate_all(_STROKES)
        assert {stroke for stroke, _, _ in drawn} == set(_INKS[:4])
        assert all(1.5 <= width <= 3 for _, width, _ in drawn)
        for chart in page.locator(".charts svg[role=img]").all():
            box = chart.bounding_box()
            assert box["width"] > 200
            assert box["x"] + box["width"] <= _PAPER["width"]
        bars = page.locator("#times figure:first-child svg[role=img] path")
        assert [fill for fill in bars.evaluate_all(_FILLS) if "url" not in fill] == _INKS[:5]
        assert page.pdf(print_background=False).startswith(b"%PDF-")


_PAPER = {"width": 718, "height": 1046}  # A4 within its margins
_INKS = [
    *("rgb(28, 90, 158)", "rgb(181, 83, 10)", "rgb(25, 115, 80)"),
    *("rgb(131, 64, 155)", "rgb(161, 37, 15)"),
]
_STROKES = """curves => curves.map(curve => getComputedStyle(curve)).map(
    style => [style.stroke, parseFloat(style.strokeWidth), style.strokeDasharray])"""
_FILLS = "bars => bars.map(bar => getComputedStyle(bar).fill)"


def test_series_are_told_apart_by_more_than_their_colour(page: _Page, tmp_path: Path) -> None:
    classes = tuple(f"Finding {number}" for number in range(14))
    write(tmp_path, *study(classes=classes))
    with serving(tmp_path) as address:
        page.goto(address)
        curves = page.locator("#curves figure:first-child svg[role=img] path.curve")
        playwright.expect(curves).to_have_count(1 + 14)
        drawn = curves.evaluate_all(_STROKES)
        assert len({(stroke, dash) for stroke, _, dash in drawn}) == 15
        assert len({stroke for stroke, _, _ in drawn}) == len({dash for _, _, dash in drawn}) == 8
        for place in ("#times figure:first-child svg[role=img]", "#site-times li:first-child"):
            marks = page.locator(f"{place} [fill]").evaluate_all(
                "marks => marks.map(mark => mark.getAttribute('fill'))"
            )
            assert marks == [f"url(#hatch{number})" for number in range(1, 5)]
            assert all(page.locator(mark[4:-1]).count() == 1 for mark in marks)
        _says(page, "#site-times li:first-child", "73 s")  # of four updates


_MEASURE = """
window.longTasks = [];
window.messages = [];
window.sentences = {};
new PerformanceObserver((list) => {
  longTasks.push(...list.getEntries().map(({ duration }) => duration));
}).observe({ type: "longtask" });
window.EventSource = class extends EventSource {
  constructor(address) {
    super(address);
    this.addEventListener("message", ({ data }) => messages.push(data.length));
  }
};
addEventListener("DOMContentLoaded", () => {
  const sentence = document.getElementById("sentence");
  new MutationObserver(() => { sentences[sentence.textContent] = Date.now() / 1000; })
    .observe(sentence, { childList: true, characterData: true, subtree: true });
});
"""


@pytest.mark.slow
def test_fifty_sites_and_five_hundred_rounds_stay_smooth(
    page: _Page, tmp_path: Path, shots: Path
) -> None:
    """Few elements, small messages, little work for the browser.

    Its own time is measured, which a busy machine does not stretch; what lasts on the clock, from
    writing to the journal to the page, and in tasks that block it, is bounded loosely.
    """
    sites = [f"hospital-{number:02d}" for number in range(50)]
    events = list(study(sites=sites, rounds=500))
    *before, round_closed, last_metrics, _, _, end = events
    answers = before[-50:]
    write_fast(tmp_path, iter(before[:-50]))
    page.add_init_script(_MEASURE)
    with serving(tmp_path) as address:
        page.goto(address)
        _says(page, "#figures", "499 of 500")
        playwright.expect(page.locator("#notes")).to_be_empty()  # all of it was read
        playwright.expect(page.locator("#site-rows tr")).to_have_count(50)
        assert page.locator("*").count() < 4000
        page.screenshot(path=shots / "long.png")
        assert max(page.evaluate("longTasks"), default=0) < _STUCK_MS
        page.evaluate("longTasks.length = messages.length = 0")
        work = page.context.new_cdp_session(page)
        work.send("Performance.enable", {"timeDomain": "threadTicks"})
        before_s = _task_s(work)
        for number, answer in enumerate(answers[:8], start=1):
            written = time.time()
            write(tmp_path, answer)
            text = f"Round 500 of 500: {number} of 50 sites have answered."
            _says(page, "#sentence", text)
            assert page.evaluate("text => sentences[text]", text) - written < _STUCK_MS / 1000
        assert 0 < (_task_s(work) - before_s) / 8 < 1  # a fraction of a second for each answer
        write(tmp_path, *answers[8:], round_closed, last_metrics)
        _says(page, "#figures", "500 of 500")
        sizes = page.evaluate("messages")
        assert len(sizes) >= 8
        assert max(sizes[:8]) < 4000  # of one site
        assert max(sizes) < 50 * 1000  # of all sites, a round and its metrics
        assert max(page.evaluate("longTasks"), default=0) < _STUCK_MS
        write(tmp_path, end)
        _says(page, "#state", "closed")


_STUCK_MS = 20_000


def _task_s(work: Any) -> float:
    """Processor time that the page's main thread has spent on all its tasks."""
    found = work.send("Performance.getMetrics")["metrics"]
    (spent,) = (metric["value"] for metric in found if metric["name"] == "TaskDuration")
    return float(spent)


def test_a_stranger_finds_no_token_in_any_address(page: _Page, tmp_path: Path) -> None:
    write(tmp_path, started())
    page.context.clear_cookies()
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    with serving(tmp_path) as address:
        page.goto(address)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        _says(page, "#state", "running")
    assert len(addresses) > 5
    assert not any(TOKEN in address for address in addresses)
