"""`ppfl report`: a run as one page, for clinicians and data protection officers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppfl.errors import SettingsError
from ppfl.report import print_pdf, write_report


def report_run(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    pdf: Annotated[bool, typer.Option("--pdf", help="print it to report.pdf, too")] = False,
    shortcuts: Annotated[
        Path | None, typer.Option(help="the folder that ppfl shortcuts made of the run's model")
    ] = None,
    with_xrays: Annotated[
        bool, typer.Option("--with-xrays", help="also its Grad-CAM pictures, for you alone")
    ] = False,
) -> None:
    """Write report.html, one page without anything from elsewhere, and say where it is.

    Example: ppfl report runs/covid --pdf
    """
    if with_xrays and shortcuts is None:
        raise SettingsError("--with-xrays shows X-rays of --shortcuts", hint="name its folder")
    page = write_report(run, shortcuts=shortcuts, with_xrays=with_xrays)
    typer.echo(str(page))
    if pdf:
        typer.echo(str(print_pdf(page)))
