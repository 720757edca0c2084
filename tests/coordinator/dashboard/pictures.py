"""The README's pictures of the dashboard and of the report, both of one run.

ppfl simulate quickstart --out runs/quickstart
python -m tests.coordinator.dashboard.pictures runs/quickstart --out docs/figures
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.coordinator.dashboard.browsing import launched, logged_in
from tests.coordinator.dashboard.pages import serving

_SIZES = {"dashboard": (1180, 1500), "report": (875, 1400)}
_COLOURS = 256
_BORDER = 24  # pixels between two parts of a page
_ABOVE = 30  # pixels above a heading that belong to its section


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
                    picture = _opened(page.screenshot())
                else:
                    page.goto((run / "report.html").resolve().as_uri())
                    picture = _parts(page, width)
                made.append(out / f"{name}.png")
                picture.quantize(_COLOURS).save(made[-1], optimize=True)
    return made


def _parts(page: Page, width: int) -> Image.Image:
    """The report down to the curves of training, and below that its mean X-rays, if it has any."""
    tops = {
        heading.inner_text(): box["y"]
        for heading in page.locator("h2, h3").all()
        if (box := heading.bounding_box())
    }
    cuts = [(0.0, tops["Performance"] - _ABOVE)]
    if first := tops.get("Pictures that nobody took"):
        cuts.append((first - _ABOVE / 2, tops["Cost of privacy"] - _ABOVE))
    parts = [
        _opened(
            page.screenshot(
                full_page=True, clip={"x": 0, "y": top, "width": width, "height": bottom - top}
            )
        )
        for top, bottom in cuts
    ]
    height = sum(part.height for part in parts) + _BORDER * (len(parts) - 1)
    whole, below = Image.new("RGB", (width, height), "lightgrey"), 0
    for part in parts:
        whole.paste(part, (0, below))
        below += part.height + _BORDER
    return whole


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


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
