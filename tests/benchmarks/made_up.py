"""A round small enough for tests, and results that nobody measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.measure import CANDIDATES
from benchmarks.process import Cost
from benchmarks.results import Bench, Measured, Skipped, describe_machine
from benchmarks.scaling import KeyPoint, Scaling, SitesPoint, ValuesPoint
from benchmarks.systems import Workload, make_workload
from ppfl.crypto import generate_unsafe_key

_SECONDS = {
    "ppfl-native": (0.3, 1.6),
    "ppfl-native-ahead": (0.05, 1.6),
    "ppfl-gmp": (2.9, 11.7),
    "reference": (560.0, 130.0),
    "phe-per-value": (60_000.0, 15_000.0),
    "phe-packed": (390.0, 104.0),
    "heu-zpaillier": (30.0, 145.0),
    "tenseal-ckks": (1.8, 0.7),
    "masks": (0.06, 0.02),
    "float32": (0.002, 0.004),
}
_MEGABYTES = {"phe-per-value": 1_750.0, "tenseal-ckks": 130.0, "masks": 9.05, "float32": 9.05}


def small_workload() -> Workload:
    random = np.random.default_rng(7)
    start = {
        "features.weight": random.normal(size=(40, 60)).astype(np.float32),
        "bn.running_mean": random.normal(size=50).astype(np.float32),
        "bn.running_var": random.uniform(0.1, 2, size=50).astype(np.float32),
        "classifier.bias": np.zeros(3, np.float32),
    }
    workload = make_workload(start, key_bits=512, threads=1)
    return replace(workload, generate=generate_unsafe_key)


def made_up_bench() -> Bench:
    rows = []
    for candidate in CANDIDATES:
        seal, opened = _SECONDS.get(candidate.name, (1.0, 1.0))
        size = round(_MEGABYTES.get(candidate.name, 12.1) * 1e6)
        extrapolated = candidate.sample > 0
        rows.append(
            Measured(
                name=candidate.name,
                label=candidate.label,
                protection=candidate.protection,
                readers=candidate.readers,
                note=candidate.note,
                ours=candidate.ours,
                ahead=candidate.ahead,
                timed_parameters=candidate.sample or 2_263_160,
                extrapolated=extrapolated,
                seal=Cost(seal, seal),
                add=Cost(0.05, 0.05),
                close=Cost(0.01, 0.01),
                open=Cost(opened, opened),
                up_bytes=size,
                down_bytes=size,
                peak_mb=None if extrapolated else 122.0,
                error=1e-5,
            )
        )
    return Bench(
        architecture="mobilenet_v2",
        parameters=2_263_160,
        key_bits=3072,
        threads=2,
        runs=3,
        machine=describe_machine(),
        measured=tuple(rows),
        skipped=(Skipped("other", "Another system", "it is not installed"),),
        scaling=made_up_scaling(),
    )


def made_up_scaling() -> Scaling:
    return Scaling(
        engine="native",
        values=(
            ValuesPoint(10_000, False, 0.003, 0.02, 53_000, 1.0),
            ValuesPoint(1_000_000, False, 0.14, 0.7, 5_260_000, None),
            ValuesPoint(100_000_000, True, 14.0, 70.0, 526_000_000, None),
        ),
        sites=(
            SitesPoint(2, 2, 0.05, 12_000_000, 37.0),
            SitesPoint(10, 10, 0.05, 13_000_000, 37.0),
        ),
        keys=(KeyPoint(2048, 0.1, 0.4, 5.3), KeyPoint(3072, 0.15, 0.7, 5.26)),
    )
