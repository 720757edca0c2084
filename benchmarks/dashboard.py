"""How soon the dashboard shows a long journal, and how much memory it needs.

    python benchmarks/dashboard.py                     # a million lines: minutes
    python benchmarks/dashboard.py --rounds 500

The journal is made up: 50 hospitals, 14 classes, and every event that a coordinator writes in a
round. The dashboard is a process of its own, as `ppfl dashboard` starts one, and is asked over
HTTP as a browser asks it. Its peak is that of its whole life, so that with all its libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from coordinator.dashboard.access import Access, read_token
from ppfl.federation.journal import (
    Event,
    MetricsReleased,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyStarted,
)

_SITES = tuple(f"hospital-{number:02d}" for number in range(50))
_CLASSES = tuple(f"Finding {number}" for number in range(14))
_DIGEST, _SIGNATURE = "5e" * 32, "a7" * 96
_LAST_ROUNDS = 9700  # of a million lines
_PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening one journal took; the seconds count from the start of the process."""

    lines: int
    journal_mb: float
    first_page_s: float
    up_to_date_s: float
    peak_mb: float


def write_journal(folder: Path, *, rounds: int) -> int:
    """Write a study of so many rounds, all of them closed, to a run's folder; its lines."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = 0
    with (folder / "journal.jsonl").open("w", encoding="utf-8") as file:
        for event in _study(rounds):
            file.write(event.model_dump_json() + "\n")
            lines += 1
    return lines


def _study(rounds: int) -> Iterator[Event]:
    now = datetime.now(UTC)

    def at(number: float) -> dict[str, Any]:
        """What every line has; the dashboard does not look at the chain."""
        return {"time": now + timedelta(minutes=number - rounds), "previous": _DIGEST}

    yield StudyStarted(
        **at(0),
        run="long",
        study="long",
        study_fingerprint=_DIGEST,
        classes=_CLASSES,
        custody="shared",
        suite="packed",
        protection="Paillier, 3072 bits",
        key_fingerprint=_DIGEST,
        key_bits=3072,
        sites=_SITES,
        minimum_sites=10,
        deadline_s=3600.0,
        rounds=rounds + 1,
        values=2_250_000,
        update_bytes=7_200_000,
        journal_key=_SIGNATURE,
        site_keys=dict.fromkeys(_SITES, _SIGNATURE),
        versions={"ppfl": "0.1.0"},
        resumed_after=0,
        signature=_SIGNATURE,
    )
    for site in _SITES:
        yield SiteEnrolled(**at(0), site=site, bytes_up=848, bytes_down=9_000_000)
    seconds = {"open": 1.51, "evaluate": 0.52, "train": 16.03, "seal": 0.31, "add": 0.05}
    classes = {
        name: {"auroc": 0.91234567, "sensitivity": 0.8123, "specificity": 0.9, "images": 1234}
        for name in _CLASSES
    }
    shares = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "brier", "loss")
    others = {"images": 3702, "classes": classes, "confusion": []}
    metrics = dict.fromkeys(shares, 0.87654321) | others
    for number in range(1, rounds + 1):
        yield RoundStarted(**at(number), round=number, sites=_SITES)
        for site in _SITES:
            if number > 1:
                yield RoundCountersigned(
                    **at(number + 0.5),
                    round=number - 1,
                    site=site,
                    record_sha256=_DIGEST,
                    signature=_SIGNATURE,
                )
            yield SiteAnswered(
                **at(number + 0.5),
                round=number,
                site=site,
                bytes_up=7_200_000,
                bytes_down=7_200_848,
                clear_bytes=2048,
                sealed_sha256=_DIGEST,
                seconds=seconds,
                clipped=0,
            )
        yield RoundClosed(
            **at(number + 0.9),
            round=number,
            sites=_SITES,
            seconds=54.0,
            total_sha256=_DIGEST,
            vectors=dict.fromkeys(_SITES, _DIGEST),
            signature=_SIGNATURE,
        )
        yield MetricsReleased(
            **at(number + 0.95),
            round=number - 1,
            split="validation",
            sites=_SITES,
            metrics=metrics,
        )


def measure(folder: Path, *, lines: int, port: int) -> Opening:
    """Start a dashboard over a run's folder, and watch its page until all lines were read.

    Raises:
        RuntimeError: the first page does not tell the present, or the last not all lines.
    """
    token_file = folder / "dashboard.token"
    access = Access(read_token(token_file))
    place = ["--port", str(port), "--token-file", str(token_file)]
    command = [sys.executable, "-P", "-m", "coordinator.dashboard", str(folder), *place]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - this program itself
        try:
            first_s = -1.0
            for message in _messages(f"http://127.0.0.1:{port}", folder.name, access, process):
                spent = time.perf_counter() - began
                if first_s < 0:
                    first_s = spent
                    _require_present(message)
                if message["journal"]["read"] == 1.0:
                    break
            if message["journal"]["lines"] != lines:
                raise RuntimeError(f"{message['journal']['lines']} of {lines} lines were read")
            peak_mb = _peak_mb(process.pid)
        finally:
            process.terminate()
    size_mb = (folder / "journal.jsonl").stat().st_size / 1e6
    return Opening(lines, size_mb, first_s, spent, peak_mb)


def _messages(
    address: str, name: str, access: Access, process: subprocess.Popen[bytes]
) -> Iterator[dict[str, Any]]:
    """What the page gets, after the page itself."""
    cookie = {"cookie": f"{access.cookie}={access.grant()}"}

    def ask(path: str) -> Any:
        request = urllib.request.Request(f"{address}{path}", headers=cookie)  # noqa: S310 - http
        return urllib.request.urlopen(request, timeout=_PATIENCE_S)  # noqa: S310

    while process.poll() is None:
        try:
            ask(f"/runs/{name}").read()
            break
        except urllib.error.URLError:
            time.sleep(0.02)  # it is not up yet
    with ask(f"/events/{name}") as stream:
        for line in stream:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])


def _require_present(message: dict[str, Any]) -> None:
    """The first page must tell the present, however little of the past was read."""
    now = message["parts"]["now"]
    rounds = message["parts"]["study"]["rounds"]
    if (now["state"], now["complete"]) != ("running", rounds - 1):
        raise RuntimeError(f"the first page tells round {now['complete']} of {rounds - 1}")


def _peak_mb(pid: int) -> float:
    """The most that a process has held; ``ru_maxrss`` would count its parent's memory as well."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return found * 1024 / 1e6


def main() -> None:
    """Measure a journal and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=_LAST_ROUNDS, help="of 50 sites")
    parser.add_argument("--port", type=int, default=9447, help="of this machine, a free one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "long"
        lines = write_journal(folder, rounds=arguments.rounds)
        opening = measure(folder, lines=lines, port=arguments.port)
    print("| lines | journal, MB | first page, s | up to date, s | peak, MB |")
    print("|---|---|---|---|---|")
    print(
        f"| {opening.lines} | {opening.journal_mb:.0f} | {opening.first_page_s:.1f} "
        f"| {opening.up_to_date_s:.1f} | {opening.peak_mb:.0f} |"
    )


if __name__ == "__main__":
    main()
