"""A browser for the pages: Debian's chromium, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import expect, sync_playwright

from coordinator.dashboard.access import Access
from tests.coordinator.dashboard.pages import TOKEN

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000  # on a machine that does much else
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def launched() -> Iterator[Any]:
    """A browser that runs."""
    with sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=CHROMIUM, args=_FLAGS, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@contextmanager
def logged_in(browser: Any, **options: Any) -> Iterator[Any]:
    """A page of someone who has logged in to a dashboard on this machine."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        access = Access(TOKEN)
        context.add_cookies(
            [{"name": access.cookie, "value": access.grant(), "domain": "127.0.0.1", "path": "/"}]
        )
        yield context.new_page()
