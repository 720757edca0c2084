"""`ppfl coordinator init`, `kit` and `renew`: the files that a coordinator runs from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.folder import create_folder, renew_certificate, write_kits
from ppfl.errors import SettingsError
from ppfl.federation.ceremony import Ceremony
from ppfl.settings import Study, check_settings
from simulations.scenario import read_scenario
from sites.printing import AsJson, print_result

_Folder = Annotated[Path, typer.Argument(help="the coordinator's folder")]
_Days = Annotated[int, typer.Option(min=1, max=3650, help="how long the certificate is valid")]


def init_coordinator(
    folder: Annotated[Path, typer.Argument(help="a folder that does not exist yet")],
    host: Annotated[str, typer.Option(help="name or IP address that the sites reach")],
    sites: Annotated[str, typer.Option(help="the sites' names, with commas")],
    port: Annotated[int, typer.Option(help="the one port that the sites reach")] = 9443,
    study: Annotated[Path | None, typer.Option(help="a study file to start from")] = None,
    scenario: Annotated[
        str | None, typer.Option(help="or the study of a scenario; without either: covid")
    ] = None,
    days: _Days = 825,
    as_json: AsJson = False,
) -> None:
    """Make the coordinator's folder: certificates, settings, and a draft of the study.

    Example: ppfl coordinator init coordinator --host ppfl.example.org --sites alpha,beta,gamma
    """
    draft = _draft(_table(study, scenario), [name.strip() for name in sites.split(",")])
    create_folder(folder, draft, host=host, port=port, days=days)
    typer.echo("Next: the sites agree on the study, then the key ceremony", err=True)
    result = {
        "study": draft.name,
        "draft": str(folder / "study.toml"),
        "settings": str(folder / "coordinator.toml"),
        "certificate_days": days,
    }
    print_result(result, as_json=as_json)


def write_site_kits(
    folder: _Folder,
    ceremony: Annotated[Path, typer.Argument(help="the folder of `ppfl keys create`")],
    weights: Annotated[Path | None, typer.Option(help="file of pretrained weights")] = None,
    as_json: AsJson = False,
) -> None:
    """Complete the study with the federation's key, and write a kit for each site.

    Example: ppfl coordinator kit coordinator ceremony
    """
    kits = write_kits(folder, Ceremony.read(ceremony), weights=weights)
    study = kits.study
    typer.echo("Send each site its kit; compare these by telephone", err=True)
    result = {
        "study": study.name,
        "study_fingerprint": study.fingerprint(),
        "key_fingerprint": study.encryption.key_fingerprint,
        "ca_fingerprint": kits.authority,
        "journal_fingerprint": kits.journal_key,
        "card": dict(kits.cards),
        "start_sha256": study.model.start_sha256,
        "kits": [str(path) for path in kits.files],
    }
    print_result(result, as_json=as_json)


def renew_server(folder: _Folder, days: _Days = 825, as_json: AsJson = False) -> None:
    """Issue the coordinator's certificate anew; the sites need nothing new.

    A coordinator that is running takes it up when it is started again.

    Example: ppfl coordinator renew coordinator
    """
    renew_certificate(folder, days=days)
    typer.echo("A coordinator that is running: stop it and start it again", err=True)
    print_result({"certificate_days": days}, as_json=as_json)


def _table(study: Path | None, scenario: str | None) -> dict[str, Any]:
    if study is None:
        return read_scenario(scenario or "covid").study
    if scenario is not None:
        raise SettingsError("either --study or --scenario can be given, not both")
    return Study.read(study).model_dump(mode="json")


def _draft(table: dict[str, Any], sites: list[str]) -> Study:
    """The study of a table for these sites, without the digests that are not yet known."""
    fresh = {
        "federation": {"sites": sites},
        "model": {"start_sha256": ""},
        "encryption": {"key_fingerprint": ""},
    }
    merged = {name: table.get(name, {}) | new for name, new in fresh.items()}
    return check_settings(table | merged, Study, where="study")
