"""What a person should look at, and whether it is over."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.dashboard.changes import Changes

_MOST = 500


@dataclass(slots=True)
class _Alarm:
    time: float
    round: int
    code: str
    site: str
    sentence: str
    active: bool = True


class Alarms:
    """The last few hundred alarms of a run, in their order; an active one concerns the present.

    Args:
        changes: where to note which alarms are new or over, as rows of section ``alarms``.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._alarms: dict[str, _Alarm] = {}
        self._active: dict[str, _Alarm] = {}
        self._raised = 0
        self._by_code: Counter[str] = Counter()

    @property
    def active(self) -> int:
        """How many are not over."""
        return len(self._active)

    def add(self, code: str, sentence: str, *, time: float, number: int, site: str = "") -> None:
        """Raise one, in round ``number``."""
        if len(self._alarms) >= _MOST:
            oldest = next(iter(self._alarms))
            del self._alarms[oldest]
            self._active.pop(oldest, None)
        row = str(self._raised)
        self._raised += 1
        self._by_code[code] += 1
        self._alarms[row] = self._active[row] = _Alarm(time, number, code, site, sentence)
        self._changes.note("alarms", row)

    def settle(self, *codes: str, site: str = "") -> None:
        """Say that alarms of some kinds, perhaps of one site only, are over."""
        for row, alarm in list(self._active.items()):
            if alarm.code in codes and site in ("", alarm.site):
                alarm.active = False
                del self._active[row]
                self._changes.note("alarms", row)

    def to_counts(self) -> dict[str, tuple[int, int]]:
        """By code, how many are not over, and how many were raised."""
        active = Counter(alarm.code for alarm in self._active.values())
        return {code: (active[code], raised) for code, raised in self._by_code.items()}

    def to_row(self, row: str) -> dict[str, Any]:
        """As the page gets it, empty for one that was dropped."""
        return asdict(self._alarms[row]) if row in self._alarms else {}
