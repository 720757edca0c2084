"""Whether each line of a journal is bound to the one before it, as it was when it was written."""

from __future__ import annotations

import hashlib

from ppfl.errors import RecordError
from ppfl.federation.journal import AnyEvent
from ppfl.federation.journal_file import Line


class Chain:
    """Checks a journal's lines, which must come in their order, from the first.

    ``torn`` are the numbers of the lines that a crash tore.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._begun = False
        self.torn: list[int] = []

    def accept(self, line: Line) -> AnyEvent | None:
        """The line's event, None if it is torn.

        After an error the chain goes on from this line, so that each break is told once.

        Raises:
            RecordError: the line before it is not the one that was there when it was written.
            RunError: it is no event of this version.
        """
        before = self._digest.hexdigest() if self._begun else ""
        event = None
        try:
            event = line.event()
        finally:
            if event is None and line.is_torn:
                self.torn.append(line.number)
                self._digest.update(b"\n" * self._begun + line.raw)
            else:
                self._digest = hashlib.sha256(line.raw)
            self._begun = True
        if event is not None and event.previous != before:
            raise RecordError(
                f"{line.path}, line {line.number}: does not follow on what stands before it: a "
                "line there was changed, taken away or put in"
            )
        return event
