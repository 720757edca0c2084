"""The pages in a real browser: Debian's chromium, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.dashboard.access import Access
from ppfl.federation.journal import Event, RoundStarted, SiteFailed
from tests.coordinator.dashboard.pages import TOKEN, serving
from tests.coordinator.dashboard.studies import SITES, answered, started, study, write, write_fast
from tests.deployed import free_port

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
_CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="chromium is not installed")

_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
_PATIENCE_MS = 60_000  # on a machine that does much else
_PHONE = {"width": 360, "height": 740}
_Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=_CHROMIUM, args=_FLAGS, timeout=_PATIENCE_MS
        )
        yield browser
        browser.close()


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
    with browser.new_context() as context:
        context.set_default_timeout(_PATIENCE_MS)
        playwright.expect.set_options(timeout=_PATIENCE_MS)
        access = Access(TOKEN)
        context.add_cookies(
            [{"name": access.cookie, "value": access.grant(), "domain": "127.0.0.1", "path": "/"}]
        )
        page = context.new_page()
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
        page.screenshot(path=shots / "closed.png", full_page=True)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, _PHONE], ids=["wide", "phone"])
def test_nothing_is_in_the_way_of_anyone(
    scheme: str, size: dict[str, int], page: _Page, tmp_path: Path, shots: Path
) -> None:
    """WCAG 2.2 AA as far as axe-core can tell, in both colour schemes, and nothing sticks out."""
    lost = SiteFailed(round=2, site="north", code="flower-404", sentence="It is gone.")
    write(tmp_path, *list(study())[:12], _now(lost))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    with serving(tmp_path) as address:
        page.goto(address)
        _says(page, "#alarms", "Site lost")
        playwright.expect(page.locator("#log-rows tr")).to_have_count(13)
        page.locator("#as-table summary").click()
        found = axe.Axe().run(page).response
        assert [(rule["id"], rule["nodes"]) for rule in found["violations"]] == []
        assert len(found["passes"]) > 20
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.screenshot(path=shots / f"{scheme}-{size['width']}.png", full_page=True)


def test_on_paper_there_are_figures_and_no_buttons(page: _Page, tmp_path: Path) -> None:
    write(tmp_path, *study())
    page.emulate_media(media="print", color_scheme="dark")
    with serving(tmp_path) as address:
        page.goto(address)
        _says(page, "#state", "closed")
        playwright.expect(page.locator(".bar")).to_be_hidden()
        playwright.expect(page.locator("#curves svg[role=img]").first).to_be_visible()
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(0, 0, 0)"


def test_fifty_sites_and_five_hundred_rounds_are_drawn_with_few_elements(
    page: _Page, tmp_path: Path, shots: Path
) -> None:
    sites = [f"hospital-{number:02d}" for number in range(50)]
    events = list(study(sites=sites, rounds=500))
    write_fast(tmp_path, iter(events[:-3]))
    with serving(tmp_path) as address:
        page.goto(address)
        _says(page, "#figures", "500 of 500")
        playwright.expect(page.locator("#site-rows tr")).to_have_count(50)
        assert page.locator("*").count() < 4000
        page.screenshot(path=shots / "long.png")
        write(tmp_path, events[-1])
        _says(page, "#state", "closed")


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
