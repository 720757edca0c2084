"""From parameters to sealed vectors and back: fixed point, slots, tail, suites, wire."""

from ppfl.codec.quantizer import WEIGHT_UNIT, Parameters, Quantizer, ranges_of
from ppfl.codec.slots import SlotLayout
from ppfl.codec.suites import PackedSuite, Suite, UnsafePlaintextSuite
from ppfl.codec.tail import Integers, TailLayout
from ppfl.codec.wire import SealedVector

__all__ = [
    "WEIGHT_UNIT",
    "Integers",
    "PackedSuite",
    "Parameters",
    "Quantizer",
    "SealedVector",
    "SlotLayout",
    "Suite",
    "TailLayout",
    "UnsafePlaintextSuite",
    "ranges_of",
]
