"""Randomizers made ahead of time, while a site trains.

A randomizer does not depend on what it will blind, so that the network can train meanwhile; what
remains of sealing is one multiplication a ciphertext.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ppfl.crypto.engine import Engine

_CHUNK = 1024  # enough for all threads of engine native, and 20 ms of work
_NICER = 10  # than the thread that trains, which takes nine tenths of the cores they share
_NICEST = 19


class RandomizerPool:
    """A supply of one engine's randomizers, in memory only; each is handed out once.

    Args:
        engine: what makes them, on all its threads.
    """

    def __init__(self, engine: Engine) -> None:
        self.seconds = 0.0
        """Wall time of making those that were made ahead, since the pool began."""
        self._engine = engine
        self._width = engine.ciphertext_bytes
        self._ready = bytearray()
        self._process = os.getpid()

    @contextmanager
    def filling(self, count: int) -> Iterator[threading.Event]:
        """Make up to ``count`` randomizers, in a thread of low priority, until the block ends.

        The event is set when none is left to be made. More than ``count`` never wait, which bounds
        the memory: the bytes of the update that they are for.
        An engine that holds the interpreter's lock makes none: it would stop the training that it
        should hide behind.
        """
        over, full = threading.Event(), threading.Event()
        if not self._engine.releases_lock:
            full.set()
            yield full
            return
        thread = threading.Thread(target=self._fill, args=(count, over, full), name="randomizers")
        thread.start()
        try:
            yield full
        finally:
            over.set()
            thread.join()

    def take(self, count: int) -> bytes:
        """(count,) randomizers: those that wait, and as many more as are needed, made now."""
        if self._process != os.getpid():
            # two processes must not blind with the same: it would show the difference of plaintexts
            self._ready, self._process = bytearray(), os.getpid()
        size = min(count, len(self._ready) // self._width) * self._width
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken + self._engine.fresh_randomizers(count - size // self._width)

    def _fill(self, count: int, over: threading.Event, full: threading.Event) -> None:
        with suppress(OSError, AttributeError):  # only Linux knows priorities of threads
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _NICEST))
        while not over.is_set():
            missing = count - len(self._ready) // self._width
            if missing <= 0:
                full.set()
                return
            began = time.monotonic()
            self._ready += self._engine.fresh_randomizers(min(missing, _CHUNK))
            self.seconds += time.monotonic() - began
