"""Ends a process that hangs."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """End this process if what is inside takes longer; where it hung goes to standard error.

    Flower waits for ever for a ClientApp that hangs, and its site takes part in no round again;
    one that has ended is noticed within a minute. ``faulthandler`` does it from C, because no
    thread and no signal handler of Python's runs while C code holds the interpreter.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
