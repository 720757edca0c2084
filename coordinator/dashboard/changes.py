"""Which parts of a state have changed, so that a page gets these and no others."""

from __future__ import annotations

Part = tuple[str, str]
"""A section of the state, and a row in it (empty where the section is one row)."""


class Changes:
    """Counts changes; each part remembers its last one."""

    def __init__(self) -> None:
        self._last: dict[Part, int] = {}  # in the order of the last change
        self.revision = 0

    def note(self, section: str, row: str = "") -> None:
        """A part has changed."""
        self.revision += 1
        self._last.pop((section, row), None)
        self._last[section, row] = self.revision

    def forget(self, section: str, row: str) -> None:
        """A part is gone, and no longer handed out."""
        self._last.pop((section, row), None)

    def since(self, revision: int) -> list[Part]:
        """The parts that changed after a revision, in the order in which they did."""
        parts: list[Part] = []
        for part, last in reversed(self._last.items()):
            if last <= revision:
                break
            parts.append(part)
        return parts[::-1]
