"""Looks at the journals while pages are served, and tells the open ones when it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.dashboard.runs import Runs

_log = logging.getLogger("ppfl.dashboard")
_LOOK_S = 0.5  # between two looks at the journals
_PUSH_S = 0.25  # between two increments of one page, at least


class Watch:
    """Reads on in the journals of ``runs``, in a thread, as long as it runs."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._looked = asyncio.Condition()
        self._ended = False

    async def end(self) -> None:
        """Let the open pages go: there is no further look."""
        self._ended = True
        async with self._looked:
            self._looked.notify_all()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at the journals for as long as this is entered."""
        await asyncio.to_thread(self.runs.look)  # the first page finds something to show
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()

    async def looks(self) -> AsyncIterator[None]:
        """One item now, and one after each look, but not too many a second."""
        while not self._ended:
            yield
            await asyncio.sleep(_PUSH_S)
            async with self._looked:
                if not self._ended:
                    await self._looked.wait()

    async def _look(self) -> None:
        while True:
            try:
                more = await asyncio.to_thread(self.runs.look)
            except Exception:  # the pages of all runs hang on this task
                _log.exception("the journals could not be looked at; once more in %g s", _LOOK_S)
                more = False
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(0 if more else _LOOK_S)
