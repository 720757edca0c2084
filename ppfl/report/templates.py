"""The pages' templates: the reports' lie beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(template: str, *, package: str = "ppfl.report", **values: Any) -> str:
    """A page from a template in a package and what it shows; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def read_style() -> str:
    """The style sheet of reports, to stand in a page."""
    return (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
