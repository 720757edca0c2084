"""The README's pictures of the dashboard and of the report, both of one run.

ppfl simulate quickstart --out runs/quickstart
python -m tests.coordinator.dashboard.pictures runs/quickstart --out docs/figures
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from tests.coordinator.dashboard.browsing import launched, logged_in
from tests.coordinator.dashboard.pages import serving

_SIZES = {"dashboard": (1180, 1500), "report": (875, 1400)}
_COLOURS = 256


def take_pictures(run: Path, out: Path) -> list[Path]:
    """Write dashboard.png and report.png to a folder; where they are."""
    made = []
    with launched() as browser, serving(run) as address:
        for name, (width, height) in _SIZES.items():
            options = {"viewport": {"width": width, "height": height}, "color_scheme": "light"}
            with logged_in(browser, **options) as page:
                if name == "dashboard":
                    page.goto(address)
                    expect(page.locator("#state")).to_have_text("closed")
                    expect(page.locator("#log-rows tr").first).to_be_visible()
                else:
                    page.goto((run / "report.html").resolve().as_uri())
                picture = Image.open(io.BytesIO(page.screenshot()))
                made.append(out / f"{name}.png")
                picture.convert("RGB").quantize(_COLOURS).save(made[-1], optimize=True)
    return made


def main() -> None:
    """Take the pictures of the run that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run that has closed, with its report")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    for path in take_pictures(arguments.run, arguments.out):
        print(path)


if __name__ == "__main__":
    main()
