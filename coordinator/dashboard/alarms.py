"""What a person should look at, and whether it is over."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.dashboard.changes import Changes

_MOST_PAST = 500


@dataclass(slots=True)
class _Alarm:
    """What was raised once or, without an end between, again: ``times``, in ``first`` to ``last``.

    Its time and its sentence are those of the last time.
    """

    code: str
    site: str
    first: int
    last: int
    time: float
    sentence: str
    times: int = 1
    active: bool = True


class Alarms:
    """The active alarms of a run, one for each code and site, and the last few hundred past ones.

    Args:
        changes: where to note which alarms are new or over, as rows of section ``alarms``.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._alarms: dict[str, _Alarm] = {}
        self._active: dict[str, dict[str, str]] = {}  # by code and site, the row
        self._past: deque[str] = deque()
        self._made = 0
        self._raised: Counter[str] = Counter()

    @property
    def active(self) -> int:
        """How many are not over."""
        return sum(len(rows) for rows in self._active.values())

    def add(self, code: str, sentence: str, *, time: float, number: int, site: str = "") -> None:
        """Raise one in round ``number``, or say once more what is not over."""
        self._raised[code] += 1
        rows = self._active.setdefault(code, {})
        if site in rows:
            alarm = self._alarms[rows[site]]
            alarm.last, alarm.time, alarm.sentence = number, time, sentence
            alarm.times += 1
        else:
            rows[site] = str(self._made)
            self._made += 1
            self._alarms[rows[site]] = _Alarm(code, site, number, number, time, sentence)
        self._changes.note("alarms", rows[site])

    def settle(self, *codes: str, site: str = "") -> None:
        """Say that alarms of some kinds, perhaps of one site only, are over."""
        for code in codes:
            rows = self._active.get(code, {})
            for each in [site] if site else list(rows):
                if each in rows:
                    self._end(rows.pop(each))

    def to_counts(self) -> dict[str, tuple[int, int]]:
        """By code, how many are not over, and how often any was raised."""
        return {
            code: (len(self._active.get(code, {})), raised) for code, raised in self._raised.items()
        }

    def to_row(self, row: str) -> dict[str, Any]:
        """As the page gets it."""
        return asdict(self._alarms[row])

    def _end(self, row: str) -> None:
        self._alarms[row].active = False
        self._changes.note("alarms", row)
        self._past.append(row)
        if len(self._past) > _MOST_PAST:
            oldest = self._past.popleft()
            del self._alarms[oldest]
            self._changes.forget("alarms", oldest)  # a page that has it may keep it
