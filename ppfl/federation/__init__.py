"""An encrypted round without any transport, and its record."""

from ppfl.federation.aggregation import Aggregation
from ppfl.federation.checkpoint import Checkpoint
from ppfl.federation.journal import Journal, read_journal
from ppfl.federation.vectors import Opened, Sealed, VectorPlan

__all__ = [
    "Aggregation",
    "Checkpoint",
    "Journal",
    "Opened",
    "Sealed",
    "VectorPlan",
    "read_journal",
]
