"""A page as PDF: printed by a browser that is there, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest

from ppfl.errors import BrowserError, DiskFullError
from ppfl.report import print_pdf


def test_without_a_browser_no_pdf_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrowserError, match="no browser") as found:
        print_pdf(page)
    assert "print it" in found.value.hint
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(BrowserError, match="ended with 3"):
        print_pdf(page)
    browser.write_bytes(b"no program")
    with pytest.raises(BrowserError, match="OSError"):
        print_pdf(page)


def test_a_pdf_for_which_there_is_no_room_leaves_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>")
    page.with_suffix(".pdf").write_text("of yesterday")
    browser = tmp_path / "chromium"
    browser.write_text(
        '#!/bin/sh\nfor i; do case $i in --print-to-pdf=*) echo x > "${i#*=}";; esac; done'
    )
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(DiskFullError, match=r"report\.pdf"):
            print_pdf(page)
    assert page.with_suffix(".pdf").read_text() == "of yesterday"
    assert print_pdf(page).read_text() == "x\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("chromium", "report.html", "report.pdf")
    ]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_the_page_is_printed(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><p>printed")
    assert print_pdf(page).read_bytes().startswith(b"%PDF-")
