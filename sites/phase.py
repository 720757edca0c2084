"""What a site is doing just now, for whoever looks at its folder, and how long it took."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = {
    "enroll": "enrolling",
    "add X-rays": "adding X-rays up",
    "open": "opening",
    "evaluate": "evaluating",
    "train": "training",
    "seal": "sealing",
    "upload": "sending",
}
"""What a site is doing in each phase, for people."""

_EVERY_S = 0.5


class Phase:
    """A small file that says which phase of which round a site is in, and how far.

    ``seconds`` maps each phase that has ended to its wall time; one that was entered twice, to both
    together.
    """

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._path = folder / "phase.json"
        self._written = 0.0

    @contextmanager
    def enter(self, phase: str, round_number: int) -> Iterator[Callable[[int, int], None]]:
        """Say that a phase has begun; the callable tells steps done and steps in all."""
        began = time.monotonic()
        self._write({"round": round_number, "phase": phase, "done": 0, "of": 0})

        def step(done: int, of: int) -> None:
            if done == of or time.monotonic() - self._written > _EVERY_S:
                self._write({"round": round_number, "phase": phase, "done": done, "of": of})

        yield step
        spent = self.seconds.get(phase, 0.0) + time.monotonic() - began
        self.seconds[phase] = round(spent, 3)

    def finish(self, round_number: int, *, sent: int = 0, of: int = 0) -> None:
        """Say that the site has answered, and waits.

        Args:
            round_number: of the answer.
            sent: bytes of the sealed answer that have left.
            of: all of its bytes.
        """
        self._write({"round": round_number, "phase": "done", "done": sent, "of": of})

    def _write(self, state: dict[str, Any]) -> None:
        # of this process: another one may still work at what Flower has given up
        temporary = self._path.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self._path)
        self._written = time.monotonic()


def read_phase(folder: Path) -> dict[str, Any]:
    """The phase a site is in, empty before its first."""
    try:
        state: dict[str, Any] = json.loads((folder / "phase.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state
