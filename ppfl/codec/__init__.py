"""From parameters to sealed vectors and back: fixed point, slots, tail, suites, wire."""

from ppfl.codec.quantizer import WEIGHT_UNIT, Quantizer, weight_units
from ppfl.codec.ranges import (
    CONTROL,
    RANGE_BITS,
    Parameters,
    count_ranges,
    extents_of,
    ranges_of,
)
from ppfl.codec.slots import SlotLayout
from ppfl.codec.suites import PackedSuite, Suite, UnsafePlaintextSuite
from ppfl.codec.tail import Integers, TailField, TailLayout
from ppfl.codec.wire import SealedVector

__all__ = [
    "CONTROL",
    "RANGE_BITS",
    "WEIGHT_UNIT",
    "Integers",
    "PackedSuite",
    "Parameters",
    "Quantizer",
    "SealedVector",
    "SlotLayout",
    "Suite",
    "TailField",
    "TailLayout",
    "UnsafePlaintextSuite",
    "count_ranges",
    "extents_of",
    "ranges_of",
    "weight_units",
]
