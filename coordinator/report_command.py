"""`ppfl report`: a run as one page, for clinicians and data protection officers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppfl.report import print_pdf, write_report


def report_run(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    pdf: Annotated[bool, typer.Option("--pdf", help="print it to report.pdf, too")] = False,
) -> None:
    """Write report.html, one page without anything from elsewhere, and say where it is.

    Example: ppfl report runs/covid --pdf
    """
    page = write_report(run)
    typer.echo(str(page))
    if pdf:
        typer.echo(str(print_pdf(page)))
