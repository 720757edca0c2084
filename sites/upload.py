"""How much of a site's answer has left, for whoever looks at its phase file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock

import httpx

from sites.phase import Phase, read_phase

_PIECE = 65_536


class Upload:
    """Tells phase ``upload``: how many bytes of the sealed answer were handed to the system.

    What the system still holds in its buffers is counted as sent, so this end is ahead of the
    coordinator's, and an object that breaks off is counted again from its beginning. Nothing is
    told of an answer in which nothing is sealed. All methods may be called from any thread.

    Args:
        work: the site's work folder.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._phase = work, Phase(work)
        self._lock, self._entered = Lock(), ExitStack()
        self._round = self._sent = self._all = 0
        self._step: Callable[[int, int], None] | None = None

    def begin(self) -> None:
        """An answer is about to be sent, perhaps anew."""
        with self._lock, suppress(OSError):  # a full disk keeps no answer from being sent
            state = read_phase(self._work)
            if state.get("phase") == "done" and state["done"] < state["of"]:
                self._round, self._sent, self._all = state["round"], 0, state["of"]
                self._step = self._entered.enter_context(self._phase.enter("upload", self._round))

    def end(self) -> None:
        """The answer is sent, or cannot be."""
        with self._lock, suppress(OSError):
            if self._step is not None:
                self._step = None
                self._entered.close()
                self._phase.finish(self._round, sent=self._all, of=self._all)

    @contextmanager
    def counting(self, request: httpx.Request) -> Iterator[None]:
        """Count what leaves of a request's body, and forget it if the request fails."""
        body = _Counted(request.content, self._add)
        request.stream = body
        try:
            yield
        except BaseException:
            self._add(-body.passed)
            raise

    def _add(self, size: int) -> None:
        with self._lock, suppress(OSError):
            self._sent += size
            if self._step is not None:  # around the sealed vector, a little is sent beside it
                self._step(min(self._sent, self._all), self._all)


class _Counted(httpx.SyncByteStream):
    """A body in pieces; the next one is asked for when the last was taken."""

    def __init__(self, body: bytes, tell: Callable[[int], None]) -> None:
        self._body, self._tell = body, tell
        self.passed = 0

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _PIECE):
            piece = self._body[start : start + _PIECE]
            yield piece
            self.passed += len(piece)
            self._tell(len(piece))
