"""`ppfl site init` and `join`: a hospital's identity, and its place in a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sites.identity import create_identity
from sites.join import join
from sites.printing import AsJson, print_result


def init_site(
    name: Annotated[str, typer.Argument(help="the site's name in the study")],
    folder: Annotated[
        Path | None, typer.Argument(help="a folder that does not exist yet; else the name")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make this hospital's identity: keys that never leave it, and a card to hand out.

    Example: ppfl site init alpha
    """
    place = folder or Path(name)
    card = create_identity(name, place)
    typer.echo(f"Send {place / name}.card, and nothing else of this folder", err=True)
    result = {"card": str(place / f"{name}.card"), "fingerprint": card.fingerprint}
    print_result(result, as_json=as_json)


def join_federation(
    kit: Annotated[Path, typer.Argument(help="this site's kit, from the coordinator")],
    data: Annotated[Path, typer.Option(help="a folder of X-rays, a table (CSV), or a vault")],
    folder: Annotated[Path, typer.Option("--dir", help="the folder of `ppfl site init`")] = Path(),
    passphrase_file: Annotated[
        Path | None, typer.Option(help="for the private key; else one is made")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a kit, keep the federation's private key, and lay down what this site approves.

    Example: ppfl site join alpha.kit --dir alpha --data /srv/xrays
    """
    joined = join(kit, folder, data=data, passphrase_file=passphrase_file)
    typer.echo(
        "Compare these by telephone with the other sites and the coordinator before you start",
        err=True,
    )
    result = {
        "site": joined.site,
        "study": joined.study.name,
        "classes": list(joined.study.classes),
        "sites": list(joined.study.federation.sites),
        "minimum_sites": joined.study.federation.minimum_sites,
        "release_floor": joined.study.federation.release_floor,
        "rounds": joined.study.training.rounds,
        "study_fingerprint": joined.study.fingerprint(),
        "key_fingerprint": joined.key,
        "ca_fingerprint": joined.authority,
        "journal_fingerprint": joined.journal_key,
        "card_fingerprint": joined.card,
        "code": joined.code,
        "site_file": str(joined.site_file),
        "changed": joined.changed,
    }
    print_result(result, as_json=as_json)
