"""Whether processes grow: their memory, round by round, and the slope of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from tests.live.federation import COORDINATOR, LiveFederation

_PROGRAMS = {
    COORDINATOR: ("command", "superlink", "gateway", "superexec", "dashboard", "serverapp"),
    "site": ("command", "supernode", "superexec"),
}
MOST_MB = 1.0  # a round, when noise is taken off; what grows slower 30 rounds do not show
SURE_MB = 3.0  # a round, with noise on top; above it the slope says nothing about the process


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
    """How the processes of one role grew: MB a round, its standard error, and the extremes.

    ``slope`` and ``error`` are None where no process was seen long enough to tell.
    """

    role: str
    processes: int
    samples: int
    lowest: float
    highest: float
    slope: float | None = None
    error: float | None = None

    def verdict(self) -> str:
        """Why this role is not known to be flat, empty if it is or if there is no slope of it."""
        if self.slope is None or self.error is None:
            return ""
        if self.slope - 2 * self.error > MOST_MB:
            return f"grows by more than {MOST_MB:g} MB a round"
        if self.slope + 2 * self.error > SURE_MB:
            return f"may grow by more than {SURE_MB:g} MB a round: too few samples, or too noisy"
        return ""


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


def growth_of(samples: Sequence[Sample]) -> list[Growth]:
    """The slope of each role by least squares, each process with a level of its own.

    A process's first sample is left out: it is still loading then. Where what is left is too
    little for a slope and its error, the extremes are those of all samples.
    """
    found = []
    for role in dict.fromkeys(sample.role for sample in samples):
        lives: dict[tuple[int, float], list[tuple[float, float]]] = {}
        for sample in samples:
            if sample.role == role:
                lives.setdefault(sample.process, []).append((sample.round, sample.megabytes))
        settled = [np.array(points[1:]) for points in lives.values() if len(points) > 2]
        slope, error = _slope(settled)
        seen = settled if slope is not None else [np.array(points) for points in lives.values()]
        memory = np.concatenate(seen)[:, 1]
        low, high = float(memory.min()), float(memory.max())
        found.append(Growth(role, len(lives), len(memory), low, high, slope, error))
    return found


def _slope(lives: Sequence[NDArray[np.float64]]) -> tuple[float, float] | tuple[None, None]:
    """Slope and standard error of processes' memory over rounds, if there is more than a line."""
    freedom = sum(len(points) - 1 for points in lives) - 1
    if freedom < 1:
        return None, None
    rounds, memory = np.concatenate([points - points.mean(axis=0) for points in lives]).T
    spread = float(rounds @ rounds)
    slope = float(rounds @ memory) / spread
    left = memory - slope * rounds
    return slope, float(np.sqrt(left @ left / freedom / spread))
