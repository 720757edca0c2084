"""`ppfl audit`: what a run's record is worth, and what left each hospital."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.audit import Audit, audit
from coordinator.audit_site import Departure
from ppfl.errors import RecordError
from sites.printing import AsJson

_SOURCES = {"site": "by its own journal", "coordinator": "by the coordinator's journal"}


def audit_run(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    sites: Annotated[
        list[Path] | None, typer.Option("--site", help="a site's folder, to compare with")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a run's journal, add its totals up again, and say what left each hospital.

    Ends with 63 if something is wrong; each finding is a line on stderr.

    Example: ppfl audit coordinator/run --site alpha
    """
    found = audit(run, sites or ())
    if as_json:
        typer.echo(json.dumps(_table(found)))
    else:
        _show(found)
    for finding in found.findings:
        typer.echo(f"ppfl: {finding}", err=True)
    if found.findings:
        raise typer.Exit(RecordError.exit_code)


def _table(found: Audit) -> dict[str, Any]:
    return {
        "run": found.run,
        "study": found.study,
        "well": not found.findings,
        "events": found.events,
        "keys": found.keys,
        "rounds": [asdict(each) for each in found.rounds],
        "findings": found.findings,
        "notes": found.notes,
        "left": {site: list(map(asdict, sums)) for site, sums in found.left.items()},
    }


def _show(found: Audit) -> None:
    typer.echo(f"study {found.study}, run {found.run}: {found.events} events")
    for name, key in found.keys.items():
        typer.echo(f"key of {name}: {key}")
    for each in found.rounds:
        signers = ", ".join(each.countersigned) or "nobody"
        inside = ", ".join(each.sites)
        typer.echo(
            f"round {each.number}: {inside} in the total; countersigned by {signers}; "
            f"total: {each.total}"
        )
    for site, departures in found.left.items():
        source = _SOURCES[departures[0].source] if departures else "nothing, by its own journal"
        typer.echo(f"what left {site}, {source}:")
        for left in departures:
            typer.echo(f"  {_rounds(left)}: {left.bytes:,} bytes: {left.what} ({left.protection})")
    for note in found.notes:
        typer.echo(f"note: {note}")


def _rounds(left: Departure) -> str:
    """When, and how often if that is more than once."""
    if not left.last:
        when = "before the first round"
    elif left.first == left.last:
        when = f"round {left.last}"
    elif not left.first:
        when = f"from enrolment to round {left.last}"
    else:
        when = f"rounds {left.first} to {left.last}"
    return f"{when}, {left.times} times" if left.times > 1 else when
