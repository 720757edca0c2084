"""`ppfl dashboard`: pages about runs, live."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from coordinator.dashboard.serve import DashboardPlace, serve_dashboard

_Folder = Annotated[Path, typer.Argument(help="a run's folder, or one that holds runs")]
_Port = Annotated[int, typer.Option(min=1, max=65535)]
_Listen = Annotated[str, typer.Option(help="IP address; others than this machine's need TLS")]
_TokenFile = Annotated[Path, typer.Option(help="holds the log-in token; made at first start")]
_Certificate = Annotated[Path | None, typer.Option(help="for TLS, PEM")]
_TOKEN_FILE = Path("~/.ppfl/dashboard.token")


def show_dashboard(
    folder: _Folder = Path("runs"),
    port: _Port = 9446,
    listen: _Listen = "127.0.0.1",
    token_file: _TokenFile = _TOKEN_FILE,
    certificate: _Certificate = None,
    certificate_key: _Certificate = None,
) -> None:
    """Show runs in a browser, live, until Ctrl-C.

    Example: ppfl dashboard runs/covid
    """
    place = DashboardPlace(
        folder, token_file.expanduser(), port, listen, certificate, certificate_key
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    serve_dashboard(place, began=lambda: _tell(place))


def _tell(place: DashboardPlace) -> None:
    typer.echo(str(place), err=True)
