"""ppfl itself, engine by engine, through the calls that sites and the coordinator make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.systems import SITES, Candidate, System, Workload
from ppfl.codec import WEIGHT_UNIT, Parameters, Quantizer, SlotLayout, count_ranges, ranges_of
from ppfl.codec.ranges import extents_of
from ppfl.crypto import EngineName, create_engine, generate_unsafe_key
from ppfl.errors import SettingsError
from ppfl.federation import Aggregation
from ppfl.learning.metrics import EvaluationCounts
from ppfl.settings import EncryptionOptions, Study, check_settings
from sites.vectors import create_suite, shapes_of, update_plan

ENGINES: tuple[EngineName, ...] = tuple(name for name in get_args(EngineName) if name != "auto")
"""Every engine there is, the fastest first."""

WEIGHT = round(1 / len(SITES) / WEIGHT_UNIT)
"""A site's share of the average, in units of ``WEIGHT_UNIT``."""

_CLASSES = ("a", "b", "c")
_SAMPLES: Mapping[str, int] = {"reference": 2_000}  # parameters that a slow engine is timed on
_ROUND = 1


def our_candidates() -> tuple[Candidate, ...]:
    """One system for each engine, and the fastest with its randomizers made ahead."""
    plain = [_candidate(engine) for engine in ENGINES]
    ahead = replace(
        plain[0],
        name=f"{plain[0].name}-ahead",
        label=f"{plain[0].label}, ahead",
        create=partial(AheadSystem, engine=ENGINES[0]),
        ahead=True,
        note="The randomizers were made before, as a site makes them while its network trains. "
        "What they cost is the difference from the row above.",
    )
    return (plain[0], ahead, *plain[1:])


class OurSystem(System[Aggregation]):
    """A site that seals and opens, and a coordinator that holds the public key alone."""

    def __init__(self, workload: Workload, *, engine: EngineName) -> None:
        key = workload.generate(workload.key_bits)
        fingerprint = key.public.fingerprint
        self._study = make_study(SITES, fingerprint=fingerprint, s=_s_of(engine))
        self._site = create_suite(
            self._study, key.public, key, engine=engine, threads=workload.threads
        )
        self._coordinator = create_suite(
            self._study, key.public, engine=engine, threads=workload.threads
        )
        self._plan = update_plan(self._study, shapes_of(workload.start))
        self._start = workload.start
        self._counts = EvaluationCounts.empty(len(_CLASSES)).as_arrays()

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """A site's update of the round, with its counts."""
        sealed = self._plan.seal(
            self._site,
            round_number=_ROUND,
            integers=self._counts,
            parameters=parameters,
            model=self._start,
            weight=1 / len(SITES),
        )
        return sealed.vector.to_bytes()

    def add(self, total: Aggregation | None, wire: bytes, *, site: int) -> Aggregation:
        """All checks of a peer's bytes, then the sum."""
        if total is None:
            total = Aggregation(
                self._coordinator,
                values=self._plan.values,
                sites=SITES,
                minimum_sites=self._study.federation.minimum_sites,
            )
        total.accept(SITES[site], wire)
        return total

    def close(self, total: Aggregation) -> bytes:
        """The sealed sum."""
        return total.total().to_bytes()

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """All checks of a total, then the average in it."""
        vector = self._site.read(wire, values=self._plan.values)
        return self._plan.open(self._site, vector, round_number=_ROUND).parameters

    def allowed_error(self) -> Mapping[str, float]:
        """Half a step of each site, in the average."""
        return rounding_errors(self._start, self._study.encryption.value_bits)

    def rounded_average(self, workload: Workload) -> Parameters:
        """The average that an unencrypted sum of the same integers gives."""
        return average_rounded(workload, self._study.encryption.value_bits)


class AheadSystem(OurSystem):
    """The same, with the randomizers of an update made before, as a site makes them in training."""

    def prepare(self) -> None:
        """Make the randomizers of one update."""
        with self._site.preparing(self._plan.values) as ready:
            ready.wait()


def make_study(
    sites: tuple[str, ...], *, fingerprint: str = "", s: int = EncryptionOptions().s
) -> Study:
    """A study with the defaults of a real one."""
    table = {
        "name": "benchmark",
        "classes": _CLASSES,
        "encryption": {"key_fingerprint": fingerprint, "s": s},
        "federation": {"sites": sites},
    }
    return check_settings(table, Study, where="benchmark")


def rounding_errors(start: Parameters, value_bits: int) -> dict[str, float]:
    """The most that rounding changes the average, for each tensor: half a step from each site.

    Vectors and statistics of batch norm are rounded more finely than this says.
    """
    extents = extents_of(ranges_of(start))
    errors, first = {}, 0
    for name, array in start.items():
        end = first + count_ranges(array.shape)
        step = float(extents[first:end].max()) / (2 ** (value_bits - 1) - 1)
        errors[name] = len(SITES) * step / 2 * 1.01  # and what float32 loses
        first = end
    return errors


def average_rounded(workload: Workload, value_bits: int) -> Parameters:
    """The average of the updates as the quantizer rounds them, without any encryption."""
    start = workload.start
    quantizer = Quantizer(shapes_of(start), ranges_of(start), value_bits)
    sums = np.zeros(quantizer.values, np.int64)
    for update in workload.updates:
        sums += quantizer.quantize(update, weight=WEIGHT).values
    return quantizer.dequantize(sums, summands=len(SITES), weight=len(SITES) * WEIGHT)


def _s_of(engine: EngineName) -> int:
    """Engine reference is `phe`, and `phe` knows s = 1 only."""
    return 1 if engine == "reference" else EncryptionOptions().s


def _candidate(engine: EngineName) -> Candidate:
    s = _s_of(engine)
    return Candidate(
        name=f"ppfl-{engine}",
        label=f"ppfl {engine}",
        protection="Paillier, packed" if s == 1 else f"Paillier (Damgård–Jurik, s = {s}), packed",
        readers="the sites",
        create=partial(OurSystem, engine=engine),
        units=partial(_count_ciphertexts, s=s),
        find_obstacle=partial(_find_obstacle, engine),
        sample=_SAMPLES.get(engine, 0),
        ours=True,
    )


def _count_ciphertexts(workload: Workload, *, s: int) -> int:
    study = make_study(SITES, s=s)
    plaintext_bits = s * (workload.key_bits - 1)
    layout = SlotLayout(study.encryption.value_bits, study.headroom_bits, plaintext_bits)
    return layout.plaintexts(update_plan(study, shapes_of(workload.start)).values)


def _find_obstacle(engine: EngineName) -> str:
    """Why an engine cannot run here: what it says itself when it is made."""
    try:
        create_engine(generate_unsafe_key(256).public, name=engine)
    except SettingsError as error:
        return str(error)
    return ""
