"""How commands print a result: lines for people, or one JSON object for programs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ppfl.errors import PpflError, exit_code_of, write_error
from ppfl.federation.cards import grouped
from ppfl.learning.sources import count_left_out
from sites.event_lines import TIME_FORMAT

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]

_DIGEST = re.compile("[0-9a-f]{64}")


def run_command_line(app: Callable[[], None]) -> None:
    """Run a command line; an error is one line, perhaps a hint, and an exit code of its kind.

    docs/errors.md lists the codes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be text in no encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (PpflError, OSError) as error:
        told = error
        if isinstance(told, OSError):  # a full disk, a folder that may not be written to
            told = write_error(str(told.filename2 or told.filename or "a file"), told)
        with suppress(OSError):  # stderr may be a file on a full disk
            typer.echo(f"ppfl: {told}", err=True)
            if told.hint:
                typer.echo(f"hint: {told.hint}", err=True)
        sys.exit(exit_code_of(error))


def run_command(command: Callable[..., None]) -> None:
    """Run a single command without the others, from the arguments of this process."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_command_line(app)


def talk_of_processes(first: str) -> None:
    """Say a first line on stderr, and from then on what the supervised programs come to."""
    typer.echo(first, err=True)
    form = "%(asctime)s  %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, datefmt=TIME_FORMAT)
    logging.getLogger("ppfl").setLevel(logging.INFO)


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result on stdout as JSON, or one `name: value` a line, fingerprints in groups."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            for inner, each in value.items():
                typer.echo(f"{label} of {inner}: {_readable(each)}")
        else:
            typer.echo(f"{label}: {_readable(value)}")


def tell_left_out(data: Path, classes: Sequence[str]) -> None:
    """Say on stderr how many X-rays of a folder or table are of none of these classes.

    Raises:
        DataError: the folder or table cannot be read.
    """
    if left_out := count_left_out(data, classes):
        labels = ", ".join(f"{label} ({images})" for label, images in left_out.items())
        typer.echo(f"{data}: left out, being of no class of the study: {labels}", err=True)


class _Tell(Protocol):
    def __call__(self, done: int, total: int | None = None, /) -> None: ...


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[_Tell]:
    """A bar on stderr, if that is a terminal; the callable tells how many are done, and of what."""
    talk = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)


def below(folder: Path, path: Path) -> str:
    """A path as it is below a folder, or a table's, and whole if it lies elsewhere."""
    top, whole = (Path(os.path.abspath(place)) for place in (folder, path))
    top = top.parent if top.is_file() else top
    return str(whole.relative_to(top) if whole.is_relative_to(top) else whole)


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value)
    return grouped(text) if _DIGEST.fullmatch(text) else text
