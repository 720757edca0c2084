"""The vectors of a study: what lies in them, and the checks that opening a sum makes.

Every vector ends in a tail of exact integers that binds it: a 1 (so that a sum tells how many
sites are in it), the study, and the round. A sum of an earlier round, of another study, or of too
few sites is recognised by whoever opens it, although the coordinator that sent it cannot be
checked in any other way. The ranges of the quantizer travel in the tail too, so that a site needs
no earlier model to open a sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import (
    RANGE_BITS,
    Integers,
    Parameters,
    Quantizer,
    SealedVector,
    Suite,
    TailField,
    TailLayout,
    count_ranges,
    ranges_of,
    weight_units,
)
from ppfl.errors import (
    ClippingError,
    MalformedMessageError,
    QuorumError,
    StaleRoundError,
    StudyMismatchError,
    ValueRangeError,
)
from ppfl.settings import Study

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What the sites read in a sum.

    ``sites`` is how many are in it, ``parameters`` their weighted average (empty for a vector
    without parameters), ``integers`` the sums of the integers each of them put in.
    """

    sites: int
    parameters: dict[str, NDArray[np.float32]]
    integers: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Sealed:
    """One site's vector, ready to be sent, and how many parameters had to be clipped."""

    vector: SealedVector
    clipped: int


class VectorPlan:
    """What lies where in one kind of vector of a study.

    Args:
        study: the study, whose fingerprint binds each vector.
        parameters: shapes of the tensors that are averaged, in order; may be empty.
        integers: shapes of the integers that are added, in order.
        value_bits: bits of a value where they are not the study's; only without parameters.
    """

    def __init__(
        self, study: Study, *, parameters: Shapes, integers: Shapes, value_bits: int = 0
    ) -> None:
        self._study = study
        self._parameters = dict(parameters)
        self._ranges = sum(count_ranges(shape) for shape in parameters.values())
        bound = {name: TailField(()) for name in ("sites", "study", "round")}
        if parameters:
            bound |= {name: TailField(()) for name in ("weight", "ranges_digest")}
            bound["ranges"] = TailField((self._ranges,), RANGE_BITS)
        self._bound = tuple(bound)
        fields = bound | {name: TailField(shape) for name, shape in integers.items()}
        self._tail = TailLayout(fields, value_bits or study.encryption.value_bits)

    @property
    def values(self) -> int:
        """Integers in a vector."""
        return self._quantizer(np.zeros(self._ranges, np.int64)).values + self._tail.values

    def seal(
        self,
        suite: Suite,
        *,
        round_number: int,
        integers: Integers,
        parameters: Parameters | None = None,
        model: Parameters | None = None,
        weight: float = 1.0,
    ) -> Sealed:
        """One site's vector.

        ``parameters`` are what its training ended with, ``model`` what it began with, from which
        the ranges follow; ``weight`` in (0, 1] is the site's share of the average.

        Raises:
            ClippingError: more values are out of range than the study tolerates.
            NotFiniteError: a parameter is NaN or infinite.
            ValueRangeError: an integer is negative or too large.
        """
        bound: dict[str, int | NDArray[np.int64]] = {
            "sites": 1,
            "study": self._study_number,
            "round": round_number,
        }
        values, clipped = np.empty(0, np.int64), 0
        if parameters is not None and model is not None:
            whole_weight = weight_units(weight)
            ranges = ranges_of(model)
            quantizer = self._quantizer(ranges)
            quantized = quantizer.quantize(parameters, weight=whole_weight)
            values, clipped = quantized.values, quantized.clipped
            count = sum(array.size for array in parameters.values())
            allowed = self._study.encryption.clipped_tolerance * count
            if clipped > allowed:
                raise ClippingError(
                    f"round {round_number}: {clipped} of {count} parameters are out of range, "
                    f"{int(allowed)} are tolerated",
                    hint="parameters that grow this fast usually mean too high a learning_rate",
                )
            bound |= {
                "weight": whole_weight,
                "ranges": ranges,
                "ranges_digest": _digest(ranges),
            }
        tail = self._tail.encode(
            {name: np.asarray(value, np.int64) for name, value in bound.items()} | dict(integers)
        )
        return Sealed(suite.seal(np.concatenate([values, tail])), clipped)

    def open(self, suite: Suite, vector: SealedVector, *, round_number: int) -> Opened:
        """What a sum holds, after checking that it is a sum the study allows to be opened.

        Raises:
            PpflError: as for :meth:`read`, or the suite cannot open it.
        """
        return self.read(suite.open(vector), round_number=round_number)

    def read(self, sums: NDArray[np.int64], *, round_number: int, own: bool = False) -> Opened:
        """What the (values,) integers of an opened sum say, after the same checks.

        ``own`` is for the one vector that a site may look into by itself: that which it sealed.

        Raises:
            QuorumError: it is a sum of fewer sites than the study demands, or of more than it has.
            StaleRoundError: it is the sum of another round.
            StudyMismatchError: it is a sum of another study.
            MalformedMessageError: it is no sum of such vectors, or its sites disagree about ranges.
        """
        split = sums.size - self._tail.values
        try:
            integers = self._tail.decode(sums[split:])
        except ValueRangeError:
            raise MalformedMessageError(
                f"round {round_number}: no total of vectors of this study"
            ) from None
        bound = {name: integers.pop(name) for name in self._bound}
        sites = int(bound["sites"])
        least, most = self._study.federation.minimum_sites, len(self._study.federation.sites)
        if own:
            least = most = 1
        if not least <= sites <= most:
            raise QuorumError(
                f"round {round_number}: a total of {sites} sites, {least} to {most} are allowed"
            )
        if int(bound["study"]) != sites * self._study_number:
            raise StudyMismatchError(f"round {round_number}: a total of another study")
        if int(bound["round"]) != sites * round_number:
            raise StaleRoundError(f"the total is not the one of round {round_number}")
        parameters: dict[str, NDArray[np.float32]] = {}
        if self._parameters:
            ranges, rest = np.divmod(bound["ranges"], sites)
            # sums of different ranges may divide without rest; those of their digests do not
            if rest.any() or int(bound["ranges_digest"]) != sites * _digest(ranges):
                raise MalformedMessageError(
                    f"round {round_number}: the sites in the total disagree about ranges"
                )
            parameters = self._quantizer(ranges).dequantize(
                sums[:split], summands=sites, weight=int(bound["weight"])
            )
        return Opened(sites=sites, parameters=parameters, integers=integers)

    @property
    def _study_number(self) -> int:
        return int(self._study.fingerprint()[:12], 16)

    def _quantizer(self, ranges: NDArray[np.int64]) -> Quantizer:
        return Quantizer(self._parameters, ranges, self._study.encryption.value_bits)


def _digest(ranges: NDArray[np.int64]) -> int:
    return int.from_bytes(hashlib.sha256(ranges.astype("<i8").tobytes()).digest()[:6], "big")
