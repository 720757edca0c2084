"""Whether processes grow: their memory, round by round, and the slope of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil

from tests.live.federation import COORDINATOR, LiveFederation

_PROGRAMS = {
    COORDINATOR: ("command", "superlink", "gateway", "superexec", "serverapp"),
    "site": ("command", "supernode", "superexec"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of one process when a round was closed, in MB of 10^6 bytes.

    ``role`` is what runs and where (`site: supernode`), ``process`` tells one from the one that
    was started in its place.
    """

    round: int
    role: str
    process: tuple[int, float]
    megabytes: float


@dataclass(frozen=True, slots=True)
class Growth:
    """How the processes of one role grew: MB a round, its standard error, and the extremes."""

    role: str
    processes: int
    samples: int
    lowest: float
    highest: float
    slope: float
    error: float


def take_samples(live: LiveFederation, number: int) -> Iterator[Sample]:
    """The memory of every lasting process that runs just now; a ClientApp lasts one message."""
    for where in (COORDINATOR, *live.sites):
        kind = COORDINATOR if where == COORDINATOR else "site"
        for program in _PROGRAMS[kind]:
            process = live.find(where, program)
            if process is None:
                continue  # struck, and not yet started again
            with suppress(psutil.Error):
                name = process.pid, process.create_time()
                megabytes = process.memory_info().rss / 1e6
                yield Sample(number, f"{kind}: {program}", name, megabytes)


def growth_of(samples: list[Sample]) -> list[Growth]:
    """The slope of each role by least squares, each process with a level of its own.

    A process's first sample is left out: it is still loading then. Roles of whose processes none
    was seen in two further rounds have no slope, and are left out.
    """
    found = []
    for role in dict.fromkeys(sample.role for sample in samples):
        lives: dict[tuple[int, float], list[tuple[float, float]]] = {}
        for sample in samples:
            if sample.role == role:
                lives.setdefault(sample.process, []).append((sample.round, sample.megabytes))
        settled = [np.array(points[1:]) for points in lives.values() if len(points) > 2]
        if not settled:
            continue
        rounds, memory = np.concatenate([points - points.mean(axis=0) for points in settled]).T
        spread = float(rounds @ rounds)
        slope = float(rounds @ memory) / spread
        left = memory - slope * rounds
        freedom = max(len(memory) - len(settled) - 1, 1)
        seen = np.concatenate(settled)[:, 1]
        found.append(
            Growth(
                role=role,
                processes=len(lives),
                samples=len(memory),
                lowest=float(seen.min()),
                highest=float(seen.max()),
                slope=slope,
                error=float(np.sqrt(left @ left / freedom / spread)),
            )
        )
    return found
