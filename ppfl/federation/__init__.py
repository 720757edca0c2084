"""An encrypted round without any transport, and its record."""

from ppfl.federation.aggregation import Aggregation
from ppfl.federation.checkpoint import Checkpoint
from ppfl.federation.journal_file import (
    Journal,
    JournalReader,
    Line,
    iterate_journal,
    read_events,
    read_journal,
    read_last_event,
)
from ppfl.federation.vectors import Opened, Sealed, VectorPlan

__all__ = [
    "Aggregation",
    "Checkpoint",
    "Journal",
    "JournalReader",
    "Line",
    "Opened",
    "Sealed",
    "VectorPlan",
    "iterate_journal",
    "read_events",
    "read_journal",
    "read_last_event",
]
