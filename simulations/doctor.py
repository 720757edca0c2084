"""`ppfl doctor`: whether this machine, a site or a coordinator is ready, and what to do if not."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import psutil
import typer
from packaging.requirements import Requirement

from coordinator.doctor import examine_coordinator
from ppfl.crypto import choose_engine, create_engine, generate_key
from ppfl.findings import Finding, examine_one
from simulations.runner import check_memory
from sites.doctor import examine_site
from sites.printing import AsJson

_TOLD = ("flwr", "torch", "torchvision", "numpy", "gmpy2", "phe", "grpcio", "cryptography")
_PROGRAMS = ("flwr", "flower-superlink", "flower-supernode")
_KEY_BITS, _SAMPLE = 3072, 64
_DISK_BYTES = 2_000_000_000


def doctor(
    folder: Annotated[Path, typer.Argument(help="where runs are to be kept")] = Path(),
    site: Annotated[Path | None, typer.Option(help="a site's folder, after `site join`")] = None,
    coordinator: Annotated[
        Path | None, typer.Option(help="a coordinator's folder, after `coordinator init`")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at this machine, or at all that a site or a coordinator needs before the first round.

    Ends with 1 if something is wrong, and says what to do about it.

    Example: ppfl doctor --site alpha
    """
    findings = []
    for finding in _examine_all(folder, site, coordinator):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    well = all(finding.state != "wrong" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"well": well, "findings": [asdict(found) for found in findings]}))
    if not well:
        raise typer.Exit(1)


def examine(folder: Path) -> Iterator[Finding]:
    """What this machine has and lacks for a simulation, one finding after the other."""
    yield from _examine_machine()
    yield from examine_one("memory", _memory)
    yield _disk(folder)


def _examine_all(folder: Path, site: Path | None, coordinator: Path | None) -> Iterator[Finding]:
    if site is None and coordinator is None:
        yield from examine(folder)
        return
    yield from _examine_machine()
    if site is not None:
        yield from examine_site(site)
    if coordinator is not None:
        yield from examine_coordinator(coordinator)


def _examine_machine() -> Iterator[Finding]:
    yield Finding("ppfl", "ok", f"{version('ppfl')}, Python {platform.python_version()}")
    yield _packages()
    yield _programs()
    yield _processor()
    yield _engine()
    yield from examine_one("self-test", _self_test)


def _tell(finding: Finding) -> None:
    typer.echo(f"{finding.state:8}{finding.what}: {finding.found}")
    if finding.advice:
        typer.echo(f"{'':8}hint: {finding.advice}")


def _packages() -> Finding:
    """Whether the packages that ppfl names are installed, in the versions that it names."""
    wrong = []
    for text in requires("ppfl") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue  # of an extra, or of another system
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"no {needed.name}")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found}, needed: {needed.specifier}")
    if wrong:
        advice = "install ppfl anew, in an environment of its own: pip install ."
        return Finding("packages", "wrong", "; ".join(wrong), advice)
    return Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in _TOLD))


def _programs() -> Finding:
    folder = Path(sys.executable).parent
    missing = [name for name in _PROGRAMS if not (folder / name).exists()]
    if missing:
        advice = "install ppfl in an environment of its own: python -m venv"
        return Finding("Flower's programs", "wrong", f"without {', '.join(missing)}", advice)
    return Finding("Flower's programs", "ok", ", ".join(_PROGRAMS))


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding("processor", "ok", f"{platform.machine()}, {cores} cores for this process")


def _engine() -> Finding:
    choice = choose_engine()
    if choice.name == "gmp":
        advice = "rounds work, several times slower; docs/benchmarks.md has the figures"
        return Finding("engine", "note", f"gmp. {choice.reason}", advice)
    return Finding("engine", "ok", f"{choice.name}. {choice.reason}")


def _self_test() -> Finding:
    """The engine that runs against GMP, under a new key of full size."""
    key = generate_key(_KEY_BITS)
    engine, gmp = (create_engine(key.public, key, name=name) for name in ("auto", "gmp"))
    numbers = [secrets.randbelow(key.public.N) for _ in range(_SAMPLE)]
    plaintexts = b"".join(n.to_bytes(engine.plaintext_bytes, "little") for n in numbers)
    engine.decrypt(engine.encrypt(plaintexts))  # builds the tables
    began = time.perf_counter()
    ciphertexts = engine.encrypt(plaintexts)
    sealed = time.perf_counter()
    opened = engine.decrypt(ciphertexts)
    ended = time.perf_counter()
    if opened != plaintexts or gmp.decrypt(ciphertexts) != plaintexts:
        advice = "use engine gmp, and report this: it is a defect or a broken machine"
        return Finding("self-test", "wrong", "engines disagree about a ciphertext", advice)
    each = f"encrypt {1e3 * (sealed - began) / _SAMPLE:.3f} ms, "
    each += f"decrypt {1e3 * (ended - sealed) / _SAMPLE:.3f} ms a ciphertext of {_KEY_BITS} bits"
    return Finding("self-test", "ok", f"{engine.name} and gmp agree; {each}")


def _memory() -> Finding:
    check_memory(actors=1)
    return Finding("memory", "ok", f"{psutil.virtual_memory().available / 1e9:.1f} GB are free")


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "wrong", f"{folder}: {error.strerror}", "name another folder")
    found = f"{free / 1e9:.1f} GB are free in {folder.resolve()}"
    if free < _DISK_BYTES:
        return Finding("disk", "note", found, f"a run may need {_DISK_BYTES / 1e9:.0f} GB")
    return Finding("disk", "ok", found)
