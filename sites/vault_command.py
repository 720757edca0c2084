"""`ppfl vault`: X-rays under Paillier at rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ppfl.crypto import read_private_key, read_public_key
from ppfl.errors import DataError, SettingsError
from ppfl.files import filled_or_gone
from ppfl.learning.check import count_dicom
from ppfl.learning.sources import ImageRecord, read_records, write_manifest
from ppfl.settings import read_passphrase
from ppfl.xray.dicom import DicomFacts
from ppfl.xray.pictures import to_deep_png
from ppfl.xray.vault import (
    Failure,
    VaultSource,
    check_folder,
    open_folder,
    seal_folder,
    vault_files,
)
from ppfl.xray.vault_file import VaultKey, read_fingerprint
from sites.printing import AsJson, below, progress_bar

vault = typer.Typer(no_args_is_help=True, help="Keep X-rays encrypted on disk.")

_Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="else $PPFL_PASSPHRASE")
]


@vault.command("seal")
def _seal(
    source: Annotated[Path, typer.Argument(help="a folder of X-rays, or a table (CSV)")],
    out: Annotated[Path, typer.Argument(help="the vault, a folder")],
    key: Annotated[Path, typer.Option(help="public key file")],
    ledger: Annotated[Path | None, typer.Option(help="which X-ray is in which file")] = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt X-rays with the public key alone. Run it again whenever new ones have arrived.

    Example: ppfl vault seal xrays vault --key public.key
    """
    records = read_records(source, causes=True, missing_ok=True)
    sources = [VaultSource(record.path, record.label, record.group) for record in records]
    place = ledger or (source if source.is_dir() else source.parent) / ".ppfl-vault.jsonl"
    vault_key = VaultKey(read_public_key(key))
    with progress_bar("sealing", len(sources)) as progress:
        report = seal_folder(sources, out, vault_key, ledger=place, progress=progress)
    result: dict[str, Any] = {"sealed": report.sealed, "already": report.already}
    result |= _summarise_dicom(report.dicom, as_json=as_json)
    _tell(result, report.failures, folder=source, as_json=as_json)


@vault.command("open")
def _open(
    folder: Annotated[Path, typer.Argument(help="the vault")],
    out: Annotated[Path, typer.Argument(help="a folder that does not exist yet")],
    key: Annotated[Path, typer.Option(help="private key file")],
    passphrase_file: _Passphrase = None,
    as_json: AsJson = False,
) -> None:
    """Decrypt a vault to PNG files and a manifest.csv. They then lie readable on the disk.

    Sealed again they hold the same pixels, classes and patient groups.

    Example: ppfl vault open vault xrays --key private.key --passphrase-file passphrase
    """
    vault_key = _reader(key, passphrase_file)
    paths = vault_files(folder)
    if out.exists():
        raise DataError(f"{out}: exists already", hint="name a new folder")
    out.mkdir(parents=True, mode=0o700)
    records, failures = [], []
    with filled_or_gone(out), progress_bar("opening", len(paths)) as progress:
        for path, found in open_folder(folder, vault_key, progress=progress):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                picture = out / f"{path.stem}.png"
                try:
                    picture.write_bytes(to_deep_png(found.pixels, bits=found.bits))
                except OSError as error:
                    raise DataError(f"{picture}: {error.strerror}") from None
                records.append(ImageRecord(picture, found.label, found.group))
        write_manifest(out / "manifest.csv", records)
    if not records:
        shutil.rmtree(out)
    _tell({"opened": len(records)}, failures, folder=folder, as_json=as_json)


@vault.command("verify")
def _verify(
    folder: Annotated[Path, typer.Argument(help="the vault")],
    key: Annotated[Path | None, typer.Option(help="public key file")] = None,
    private_key: Annotated[Path | None, typer.Option(help="to look inside as well")] = None,
    passphrase_file: _Passphrase = None,
    as_json: AsJson = False,
) -> None:
    """Look for damage. The digest inside each file can be checked with the private key only.

    Example: ppfl vault verify vault --private-key private.key --passphrase-file passphrase
    """
    if (key is None) == (private_key is None):
        raise SettingsError("either --key or --private-key is needed")
    total = len(vault_files(folder))
    found: Iterable[tuple[Path, object]] = ()
    with progress_bar("verifying", total) as progress:
        if private_key:
            opener = _reader(private_key, passphrase_file)
            found = open_folder(folder, opener, progress=progress)
        elif key:
            found = check_folder(folder, VaultKey(read_public_key(key)), progress=progress)
        failures = [each for _, each in found if isinstance(each, Failure)]
    checked = "digests" if private_key else "lengths, key and ciphertexts, not the digests inside"
    _tell({"files": total, "checked": checked}, failures, folder=folder, as_json=as_json)


@vault.command("info")
def _info(
    folder: Annotated[Path, typer.Argument(help="the vault")], as_json: AsJson = False
) -> None:
    """Say what anyone can see of a vault: files, bytes, and under which key they are.

    Example: ppfl vault info vault
    """
    paths = vault_files(folder)
    total, keys, failures = 0, set(), []
    for path in paths:
        try:
            keys.add(read_fingerprint(path))
            total += path.stat().st_size
        except DataError as error:
            failures.append(Failure(path, str(error), error.hint))
    result = {"files": len(paths), "bytes": total, "keys": ", ".join(sorted(keys))}
    _tell(result, failures, folder=folder, as_json=as_json)


def _reader(key: Path, passphrase_file: Path | None) -> VaultKey:
    passphrase = read_passphrase(passphrase_file, whose=str(key))
    private = read_private_key(key, passphrase=passphrase)
    return VaultKey(private.public, private)


def _summarise_dicom(facts: Sequence[DicomFacts], *, as_json: bool) -> dict[str, Any]:
    """Counts of what the DICOMs sealed now say of their patients; never a value of a header."""
    report = count_dicom(facts)
    if as_json:
        return {"dicom": asdict(report)}
    if not facts:
        return {}
    return {
        "DICOM": report.files,
        "with burnt-in text": report.burned_in.get("yes", 0),
        "silent about it": report.burned_in.get("unknown", 0),
        "with identifying attributes": sum(bool(told.identifying) for told in facts),
    }


def _tell(
    result: dict[str, Any], failures: Sequence[Failure], *, folder: Path, as_json: bool
) -> None:
    """Print what was done; failures, by their paths below a folder, make the program end with 1."""
    named = [{"file": below(folder, f.path), "reason": f.reason} for f in failures]
    for failure in named:
        typer.echo(f"{failure['file']}: {failure['reason']}", err=True)
    for hint in sorted({failure.hint for failure in failures} - {""}):
        typer.echo(f"hint: {hint}", err=True)
    if as_json:
        typer.echo(json.dumps(result | {"failures": named}))
    else:
        typer.echo(", ".join(f"{name}: {value}" for name, value in result.items()))
        if failures:
            typer.echo(f"failures: {len(failures)}")
    if failures:
        raise typer.Exit(1)
