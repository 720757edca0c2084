"""What commands take that read a journal of very many events: seconds, and memory at the most.

    python -m benchmarks.journal                          # a million events, some minutes
    python -m benchmarks.journal --rounds 100 --sites 10

The journal is of a study that ran to its end, with digests and signatures as `ppfl audit` wants
them, and made-up figures. Each command is a process of its own; `ppfl --help` reads no journal,
but loads torch, as the others do not. A table in Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ppfl.crypto.signing import Signer
from ppfl.errors import RunError
from ppfl.federation.journal import (
    Event,
    MetricsReleased,
    Record,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyClosed,
    StudyStarted,
)
from ppfl.federation.records import countersignature_statement, record_statement
from ppfl.settings import Study

_CLASSES = ("COVID", "Normal", "Effusion")
_SECONDS = {"open": 1.5, "evaluate": 0.5, "train": 16.0, "seal": 0.3, "add": 0.05}
_BYTES = 7_200_000
_COMMANDS = (("--help",), ("runs", "list"), ("runs", "show"), ("report",), ("audit",))


def write_run(folder: Path, *, sites: int, rounds: int) -> int:
    """Write a run's study file and journal; how many events there are."""
    names = tuple(f"site-{number:03}" for number in range(sites))
    table = {
        "name": "long",
        "classes": _CLASSES,
        "training": {"rounds": rounds},
        "federation": {"sites": names},
    }
    study = Study.model_validate(table)
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    with (folder / "journal.jsonl").open("wb") as file:
        return _Writer(file, study).write_all()


class _Writer:
    """Writes a whole study at once; a ``Journal`` would wait for the disk at each event."""

    def __init__(self, file: BinaryIO, study: Study) -> None:
        self._file, self._study = file, study
        self._sites = study.federation.sites
        self._signer = Signer(Ed25519PrivateKey.generate())
        self._site_signers = {name: Signer(Ed25519PrivateKey.generate()) for name in self._sites}
        self._before = b""
        self._events = 0

    def write_all(self) -> int:
        rounds = self._study.training.rounds
        self._write(self._started(rounds))
        for site in self._sites:
            self._write(SiteEnrolled(site=site, bytes_up=848, bytes_down=9_000_000))
        record = b""
        for number in range(1, rounds + 1):
            self._write(RoundStarted(round=number, sites=self._sites))
            vectors = {}
            for site in self._sites:
                if record:
                    self._write(self._countersigned(site, number - 1, record))
                vectors[site] = hashlib.sha256(f"{site} {number}".encode()).hexdigest()
                self._write(self._answered(site, number, vectors[site]))
            self._write(self._released(number - 1, "validation"))
            record = self._write(
                RoundClosed(
                    round=number,
                    sites=self._sites,
                    seconds=20.0,
                    total_sha256="ee" * 32,
                    vectors=vectors,
                )
            )
        for event in self._end(rounds, record):
            self._write(event)
        return self._events

    def _write(self, event: Event) -> bytes:
        changes = {"previous": hashlib.sha256(self._before).hexdigest() if self._before else ""}
        raw = event.model_copy(update=changes).model_dump_json().encode()
        if isinstance(event, Record):
            changes["signature"] = self._signer.sign(record_statement(raw, ""))
            raw = event.model_copy(update=changes).model_dump_json().encode()
        self._file.write(raw + b"\n")
        self._before, self._events = raw, self._events + 1
        return raw

    def _started(self, rounds: int) -> StudyStarted:
        return StudyStarted(
            run="a1",
            study=self._study.name,
            study_fingerprint=self._study.fingerprint(),
            classes=self._study.classes,
            custody="shared",
            suite="packed",
            protection="Paillier, 3072 bits",
            key_fingerprint="8fa4" * 16,
            key_bits=3072,
            sites=self._sites,
            minimum_sites=2,
            deadline_s=3600.0,
            rounds=rounds,
            values=1000,
            update_bytes=_BYTES,
            journal_key=self._signer.public,
            site_keys={name: signer.public for name, signer in self._site_signers.items()},
            versions={},
            resumed_after=0,
        )

    def _answered(self, site: str, number: int, digest: str) -> SiteAnswered:
        return SiteAnswered(
            round=number,
            site=site,
            bytes_up=_BYTES,
            bytes_down=_BYTES,
            sealed_sha256=digest,
            seconds=_SECONDS,
            clipped=0,
        )

    def _countersigned(self, site: str, number: int, record: bytes) -> RoundCountersigned:
        statement = countersignature_statement(self._study.fingerprint(), site, record)
        return RoundCountersigned(
            round=number,
            site=site,
            record_sha256=hashlib.sha256(record).hexdigest(),
            signature=self._site_signers[site].sign(statement),
        )

    def _released(self, number: int, split: str) -> MetricsReleased:
        figure = 1 - 0.6 * 0.99**number
        of_class = {"auroc": figure, "sensitivity": figure, "specificity": figure, "images": 100}
        metrics = {
            "accuracy": figure,
            "balanced_accuracy": figure,
            "macro_auroc": figure,
            "loss": 1 - figure,
            "brier": 0.2,
            "ece": 0.05,
            "images": 300,
            "classes": dict.fromkeys(_CLASSES, of_class),
            "confusion": [[80, 10, 10], [10, 80, 10], [10, 10, 80]],
        }
        told = {"round": number, "split": split, "sites": self._sites, "metrics": metrics}
        return MetricsReleased.model_validate(told)

    def _end(self, rounds: int, record: bytes) -> Iterator[Event]:
        yield from (self._countersigned(site, rounds, record) for site in self._sites)
        yield self._released(rounds, "validation")
        yield self._released(rounds, "test")
        yield StudyClosed(
            rounds=rounds, sites=self._sites, model_sha256="ab" * 32, seconds=20.0 * rounds
        )


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds and megabytes, at the most, of one command in a process of its own.

    Raises:
        RunError: the command failed.
    """
    code = "from simulations.program import main; main()"
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - this program itself
        [sys.executable, "-P", "-c", code, *arguments], stdout=subprocess.DEVNULL
    )
    # resource.getrusage, of this one child; it counts what this process holds, too, if that is more
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"ppfl {' '.join(arguments)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    """Write a journal, and print what each command takes."""
    parser = argparse.ArgumentParser(description="What reading a long journal takes.")
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9710, help="9710 of 50 sites: a million")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ppfl-journal-") as name:
        run = Path(name, "runs", "long")
        events = write_run(run, sites=options.sites, rounds=options.rounds)
        size = (run / "journal.jsonl").stat().st_size / 1e6
        print(f"{events:,} events, {size:,.0f} MB: {options.rounds} rounds of {options.sites}\n")
        print("| command | seconds | MB at the most |\n|---|---|---|")
        for command in _COMMANDS:
            place = run.parent if command == ("runs", "list") else run
            seconds, megabytes = measure([*command, str(place)])
            print(f"| `ppfl {' '.join(command)}` | {seconds:.1f} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
