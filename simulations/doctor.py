"""`ppfl doctor`: whether this machine is ready, and which engine it runs."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer

from ppfl.crypto import choose_engine, create_engine, generate_key
from ppfl.errors import PpflError
from simulations.runner import check_memory

_PACKAGES = ("flwr", "torch", "torchvision", "numpy", "gmpy2", "phe", "grpcio", "cryptography")
_PROGRAMS = ("flwr", "flower-superlink", "flower-supernode")
_KEY_BITS, _SAMPLE = 3072, 64
_DISK_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do where it is not ``ok``."""

    what: str
    state: Literal["ok", "note", "missing"]
    found: str
    advice: str = ""


def doctor(
    folder: Annotated[Path, typer.Argument(help="where runs are to be kept")] = Path(),
) -> None:
    """Look at this machine: packages, engine, memory, disk. Ends with 1 if something is missing.

    Example: ppfl doctor
    """
    findings = list(examine(folder))
    for finding in findings:
        typer.echo(f"{finding.state:8}{finding.what}: {finding.found}")
        if finding.advice:
            typer.echo(f"{'':8}hint: {finding.advice}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def examine(folder: Path) -> Iterator[Finding]:
    """What this machine has and lacks, one finding after the other."""
    yield Finding("ppfl", "ok", f"{version('ppfl')}, Python {platform.python_version()}")
    yield _packages()
    yield _programs()
    yield _processor()
    yield _engine()
    yield _guarded("self-test", _self_test)
    yield _guarded("memory", _memory)
    yield _disk(folder)


def _packages() -> Finding:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = "install ppfl anew: pip install ."
        return Finding("packages", "missing", f"without {', '.join(missing)}", advice)
    return Finding("packages", "ok", ", ".join(found))


def _programs() -> Finding:
    folder = Path(sys.executable).parent
    missing = [name for name in _PROGRAMS if not (folder / name).exists()]
    if missing:
        advice = "install ppfl in an environment of its own: python -m venv"
        return Finding("Flower's programs", "missing", f"without {', '.join(missing)}", advice)
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
        return Finding("self-test", "missing", "engines disagree about a ciphertext", advice)
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
        return Finding("disk", "missing", f"{folder}: {error.strerror}", "name another folder")
    found = f"{free / 1e9:.1f} GB are free in {folder.resolve()}"
    if free < _DISK_BYTES:
        return Finding("disk", "note", found, f"a run may need {_DISK_BYTES / 1e9:.0f} GB")
    return Finding("disk", "ok", found)


def _guarded(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except PpflError as error:
        return Finding(what, "missing", str(error), error.hint)
