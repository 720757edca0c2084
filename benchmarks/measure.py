"""One system after the other: seconds, bytes, memory, and whether the average is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.ours import our_candidates
from benchmarks.peers import peer_candidates
from benchmarks.process import (
    Cost,
    UnsupportedProcessorError,
    measure_cost,
    measure_peak,
    run_alone,
)
from benchmarks.results import Measured, Skipped
from benchmarks.systems import (
    Candidate,
    System,
    Workload,
    build_workload,
    largest_error,
)
from ppfl.errors import SettingsError

CANDIDATES = (*our_candidates(), *peer_candidates())
"""Every system that can be measured, ours first."""


def choose_candidates(names: Sequence[str]) -> list[Candidate]:
    """The systems of these names, or all of them if there are none.

    Raises:
        SettingsError: a name is unknown.
    """
    known = {candidate.name: candidate for candidate in CANDIDATES}
    for name in names:
        if name not in known:
            raise SettingsError(
                f"there is no system {name!r} to measure", hint=f"choose from {', '.join(known)}"
            )
    return [known[name] for name in known if name in names or not names]


def measure_alone(
    candidate: Candidate, *, architecture: str, key_bits: int, threads: int, runs: int
) -> Measured | Skipped:
    """A system's figures, taken in a fresh process, or why there are none.

    Raises:
        RunError: the system gave a wrong average, or failed.
    """
    try:
        answer = run_alone(
            "measure:measure_named",
            {
                "name": candidate.name,
                "architecture": architecture,
                "key_bits": key_bits,
                "threads": threads,
                "runs": runs,
            },
        )
    except UnsupportedProcessorError as error:
        return Skipped(candidate.name, candidate.label, str(error))
    kind: type[Measured] | type[Skipped] = Skipped if "reason" in answer else Measured
    return TypeAdapter(kind).validate_python(answer)


def measure_named(
    name: str, architecture: str, key_bits: int, threads: int, runs: int
) -> dict[str, Any]:
    """What :func:`measure_alone` runs in the fresh process: :func:`measure` as a table."""
    (candidate,) = choose_candidates([name])
    workload = build_workload(architecture, key_bits=key_bits, threads=threads)
    return asdict(measure(candidate, workload, runs=runs))


def measure(candidate: Candidate, workload: Workload, *, runs: int) -> Measured | Skipped:
    """A system's figures: medians of the runs, after one whole round to warm up.

    A system that is timed on a sample has its seconds and bytes scaled up to the workload; its
    memory is then unknown.

    Raises:
        RunError: the system gave a wrong average.
    """
    obstacle = candidate.find_obstacle()
    if obstacle:
        return Skipped(candidate.name, candidate.label, obstacle)
    timed = workload
    if 0 < candidate.sample < workload.parameters:
        timed = workload.sample(candidate.sample)
    system = candidate.create(timed)
    (down_bytes, opened), peak_mb = measure_peak(lambda: _stream(system, timed))
    error = largest_error(system, opened, timed)
    del opened
    rounds = [_time_round(system, timed) for _ in range(runs)]
    scale = candidate.units(workload) / candidate.units(timed)
    seal, add, close, open_ = (
        Cost(median(cost.wall_s for cost in step), median(cost.cpu_s for cost in step)).times(scale)
        for step in zip(*(costs for costs, _ in rounds), strict=True)
    )
    return Measured(
        name=candidate.name,
        label=candidate.label,
        protection=candidate.protection,
        readers=candidate.readers,
        note=candidate.note,
        ours=candidate.ours,
        ahead=candidate.ahead,
        timed_parameters=timed.parameters,
        extrapolated=timed is not workload,
        seal=seal,
        add=add,
        close=close,
        open=open_,
        up_bytes=round(rounds[0][1] * scale),
        down_bytes=round(down_bytes * scale),
        peak_mb=peak_mb if timed is workload else None,
        error=error,
    )


def _stream(system: System[Any], workload: Workload) -> tuple[int, dict[str, NDArray[np.float32]]]:
    """Bytes of the total, and what was in it, of a round that one process plays alone.

    It holds one update at a time, so that its memory is that of a site and of the coordinator.
    """
    total = None
    for site, update in enumerate(workload.updates):
        system.prepare()
        total = system.add(total, system.seal(update, site=site), site=site)
    wire = system.close(total)
    del total
    return len(wire), system.open(wire)


def _time_round(system: System[Any], workload: Workload) -> tuple[tuple[Cost, ...], int]:
    """What sealing, adding, closing and opening cost, and the bytes of an update."""
    total = None
    for site, update in enumerate(workload.updates):
        system.prepare()
        wire, seal = measure_cost(partial(system.seal, update, site=site))
        total, add = measure_cost(partial(system.add, total, wire, site=site))
    # the costs are those of the last site, whose update goes into a total of all others
    closed, close = measure_cost(partial(system.close, total))
    _, open_ = measure_cost(partial(system.open, closed))
    return (seal, add, close, open_), len(wire)
