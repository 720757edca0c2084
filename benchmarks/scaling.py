"""How the cost of our fastest engine grows: with values, with sites, with the key's length."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks.ours import OurSystem, make_study
from benchmarks.process import Cost, measure_cost, measure_peak, run_alone
from benchmarks.systems import Workload, build_workload
from ppfl.crypto import choose_engine
from ppfl.federation import Aggregation
from ppfl.learning.metrics import EvaluationCounts
from sites.vectors import create_suite, shapes_of, update_plan

_VALUES = (10**4, 10**5, 10**6, 10**7, 10**8)
_MEASURED_VALUES = 10**7
_SITES = (2, 10, 100, 1000)
_KEY_BITS = (2048, 3072, 4096)
_KEY_VALUES = 500_000
_ROW = 1000  # parameters that share a range
_ADDING_S = 90.0  # after this no more updates are added; a thousand take longer with slow engines
_DISTINCT = 2  # updates that are sealed, and then added in turn


@dataclass(frozen=True, slots=True)
class ValuesPoint:
    """What an update of so many values costs a site."""

    values: int
    extrapolated: bool
    seal_s: float
    open_s: float
    up_bytes: int
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class SitesPoint:
    """What a study of so many sites costs the coordinator; ``add_s`` is for each site.

    ``added`` updates were really added, one after the other; ``peak_mb`` is what this took beyond
    the updates that wait to be added.
    """

    sites: int
    added: int
    add_s: float
    up_bytes: int
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class KeyPoint:
    """What one value costs under a key of so many bits: microseconds, and bytes up."""

    key_bits: int
    seal_us: float
    open_us: float
    up_bytes: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """All of this, for one engine."""

    engine: str
    values: tuple[ValuesPoint, ...]
    sites: tuple[SitesPoint, ...]
    keys: tuple[KeyPoint, ...]


def measure_scaling(*, architecture: str, key_bits: int, threads: int, large: bool) -> Scaling:
    """How cost grows, each size in a fresh process; ``large`` measures 10^8 values too.

    Raises:
        RunError: a process failed.
    """
    shared: dict[str, Any] = {"key_bits": key_bits, "threads": threads}
    values: list[ValuesPoint] = []
    for count in _VALUES:
        if count > _MEASURED_VALUES and not large:
            values.append(_extrapolate(values[-1], count))
        else:
            answer = run_alone("scaling:measure_values", shared | {"values": count})
            values.append(TypeAdapter(ValuesPoint).validate_python(answer))
    sites = [
        run_alone("scaling:measure_sites", shared | {"sites": count, "architecture": architecture})
        for count in _SITES
    ]
    keys = [
        run_alone("scaling:measure_key", {"key_bits": bits, "threads": threads})
        for bits in _KEY_BITS
    ]
    return Scaling(
        choose_engine().name,
        tuple(values),
        TypeAdapter(tuple[SitesPoint, ...]).validate_python(sites),
        TypeAdapter(tuple[KeyPoint, ...]).validate_python(keys),
    )


def measure_values(values: int, key_bits: int, threads: int) -> dict[str, Any]:
    """A ``ValuesPoint`` as a table: sealing and opening one tensor of so many parameters."""
    return asdict(measure_tensor(_tensor(values, key_bits, threads)))


def measure_key(key_bits: int, threads: int) -> dict[str, Any]:
    """A ``KeyPoint`` as a table."""
    point = measure_tensor(_tensor(_KEY_VALUES, key_bits, threads))
    scale = 1e6 / point.values
    return asdict(
        KeyPoint(
            key_bits=key_bits,
            seal_us=point.seal_s * scale,
            open_us=point.open_s * scale,
            up_bytes=point.up_bytes / point.values,
        )
    )


def measure_sites(sites: int, architecture: str, key_bits: int, threads: int) -> dict[str, Any]:
    """A ``SitesPoint`` as a table."""
    workload = build_workload(architecture, key_bits=key_bits, threads=threads)
    return asdict(add_updates(workload, sites=sites))


def add_updates(workload: Workload, *, sites: int) -> SitesPoint:
    """The coordinator of so many sites takes one update after the other into its total."""
    key = workload.generate(workload.key_bits)
    names = tuple(f"site-{number}" for number in range(sites))
    study = make_study(names, fingerprint=key.public.fingerprint)
    site = create_suite(study, key.public, key, threads=workload.threads)
    plan = update_plan(study, shapes_of(workload.start))
    counts = EvaluationCounts.empty(len(study.classes)).as_arrays()
    wires = [
        plan.seal(
            site,
            round_number=1,
            integers=counts,
            parameters=update,
            model=workload.start,
            weight=1 / sites,
        ).vector.to_bytes()
        for update in workload.updates[:_DISTINCT]
    ]
    coordinator = create_suite(study, key.public, threads=workload.threads)

    def add_all() -> tuple[int, float]:
        aggregation = Aggregation(
            coordinator, values=plan.values, sites=names, minimum_sites=_DISTINCT
        )
        began = time.perf_counter()
        for position, name in enumerate(names):
            aggregation.accept(name, wires[position % _DISTINCT])
            if time.perf_counter() - began > _ADDING_S:
                break
        return len(aggregation.answered), time.perf_counter() - began

    (added, seconds), peak_mb = measure_peak(add_all)
    return SitesPoint(sites, added, seconds / added, len(wires[0]), peak_mb)


def _tensor(values: int, key_bits: int, threads: int) -> Workload:
    shape = (values // _ROW, _ROW)  # a matrix, as nearly all parameters of a network are
    start = {"weight": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}
    return Workload(start, (start,), key_bits=key_bits, threads=threads)


def measure_tensor(workload: Workload) -> ValuesPoint:
    """The first update of a workload, once to see what memory it takes, once on the clock."""
    system = OurSystem(workload, engine="auto")
    _, peak_mb = measure_peak(lambda: _send(system, workload))
    up_bytes, seal, open_ = _send(system, workload)
    return ValuesPoint(workload.parameters, False, seal.wall_s, open_.wall_s, up_bytes, peak_mb)


def _send(system: OurSystem, workload: Workload) -> tuple[int, Cost, Cost]:
    """Bytes, sealing and opening of the one update, which two sites send."""
    wire, seal = measure_cost(lambda: system.seal(workload.updates[0], site=0))
    total = system.add(system.add(None, wire, site=0), wire, site=1)
    closed = system.close(total)
    del total
    _, open_ = measure_cost(lambda: system.open(closed))
    return len(wire), seal, open_


def _extrapolate(point: ValuesPoint, values: int) -> ValuesPoint:
    """Cost in proportion to the values; memory is left out."""
    scale = values / point.values
    return ValuesPoint(
        values,
        True,
        point.seal_s * scale,
        point.open_s * scale,
        round(point.up_bytes * scale),
        None,
    )
