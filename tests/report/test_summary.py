"""A journal of any length in little memory."""

from __future__ import annotations

import tracemalloc

from ppfl.report import summarise
from tests.coordinator.dashboard.studies import study

_SITES = tuple(f"site-{number}" for number in range(50))
_EVENTS_A_ROUND = len(_SITES) + 3


def _peak(rounds: int) -> int:
    """Bytes at the most while a run of so many rounds is summarised, event by event."""
    tracemalloc.start()
    try:
        assert len(summarise(study(sites=_SITES, rounds=rounds)).rounds) == rounds
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_far_less_than_an_event_takes() -> None:
    _peak(2)  # what is loaded once
    short, long = 60, 300  # 3,180 and 15,900 events; one that is kept takes 2,000 bytes
    grown = _peak(long) - _peak(short)
    assert grown / ((long - short) * _EVENTS_A_ROUND) < 100
