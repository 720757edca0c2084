"""A page as a PDF file, printed by a browser that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ppfl.errors import BrowserError, write_error
from ppfl.files import replace_private

_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_LONGEST_S = 120
_HINT = "install Chromium or Chrome, or open the page in any browser and print it to a file"


def print_pdf(page: Path) -> Path:
    """Print a page to the PDF file beside it, and return where that is.

    Raises:
        BrowserError: no browser was found, or it wrote no file.
        RunError: the file cannot be written; an earlier one is as it was.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise BrowserError(
            f"no browser prints {page.name} to PDF: looked for {', '.join(_BROWSERS)}", hint=_HINT
        )
    target = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="ppfl-browser-") as profile:
        made = Path(profile, "page.pdf")
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--no-pdf-header-footer",
            f"--print-to-pdf={made}",
            page.resolve().as_uri(),
        ]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium has none for root; the page has no scripts
        try:
            done = subprocess.run(  # noqa: S603  # found above, and given a page of our own
                command, capture_output=True, timeout=_LONGEST_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BrowserError(f"{browser}: {type(error).__name__}", hint=_HINT) from None
        if not made.exists():
            raise BrowserError(f"{browser} ended with {done.returncode}, no PDF", hint=_HINT)
        try:
            replace_private(target, [made.read_bytes()])
            shutil.copymode(page, target)  # a page for one pair of eyes makes such a file
        except OSError as error:
            raise write_error(f"{target}: cannot be written", error) from None
    return target
