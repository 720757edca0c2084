"""The README's two pictures come from one run."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ppfl.report import write_report
from tests.report.runs import events, write_run

pictures = pytest.importorskip(
    "tests.coordinator.dashboard.pictures", reason="playwright is not installed"
)
browsing = pytest.importorskip("tests.coordinator.dashboard.browsing")


@pytest.mark.skipif(browsing.CHROMIUM is None, reason="chromium is not installed")
def test_both_pictures_are_taken_of_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", list(events()))
    write_report(run)
    made = pictures.take_pictures(run, tmp_path)
    assert [path.name for path in made] == ["dashboard.png", "report.png"]
    committed = Path(__file__).parents[3] / "docs" / "figures"
    for path in made:
        with Image.open(path) as taken, Image.open(committed / path.name) as shown:
            assert taken.width == shown.width
            if path.stem == "dashboard":  # a report of more is higher
                assert taken.size == shown.size
            assert taken.height > taken.width
            assert len(taken.getcolors()) > 20  # something is on it
