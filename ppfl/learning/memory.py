"""How this process holds on to memory while a network trains."""

from __future__ import annotations

import ctypes

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Let the C library keep what torch frees, for the next step wants as much again.

    Without this each step gives its activations back to the system and has them zeroed anew, about
    a fifth of a step's time. One arena instead of one a thread also holds less in all. Where the
    C library is not glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most that glibc takes
    mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    mallopt(_M_TOP_PAD, 1 << 26)
    mallopt(_M_ARENA_MAX, 1)
