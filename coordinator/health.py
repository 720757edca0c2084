"""Whether SuperLink and the gateway still answer: a supervisor sees only that a program ends."""

from __future__ import annotations

import ssl
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import httpx

SILENT_S = 60.0
"""How long a program may answer nothing: as long as Flower waits for a lost one."""

_EVERY_S = 10.0
_TIMEOUT_S = 10.0


class Health(AbstractContextManager["Health"]):
    """Asks in a thread of its own, within a ``with``: one that hangs has who asks it wait.

    Only silence counts. A connection that is refused is that of a program which starts or has
    ended, and an answer of any kind is a sign of life.

    Args:
        superlink: where SuperLink listens, HOST:PORT.
        gateway: where the gateway does; it passes the question on to SuperLink, so its own
            silence is told from SuperLink's only while SuperLink answers.
        authority: certificate of the CA that issued theirs.
    """

    def __init__(self, *, superlink: str, gateway: str, authority: Path) -> None:
        self._addresses = {"superlink": superlink, "gateway": gateway}
        self._trusted = ssl.create_default_context(cafile=str(authority))
        self._trusted.check_hostname = False  # the gateway may listen where its name is not
        self._heard = dict.fromkeys(self._addresses, time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def find_silent(self) -> str | None:
        """A program that hangs, None if none does; it is named again only after as long again."""
        now = time.monotonic()
        for name, heard in self._heard.items():
            if now - heard > SILENT_S:
                self._heard[name] = now
                return name
        return None

    def look(self) -> None:
        """Ask each once."""
        excused = False
        for name, address in self._addresses.items():
            if excused or not _is_silent(address, self._trusted):
                self._heard[name] = time.monotonic()
            else:
                excused = True

    def _keep_looking(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.look()


def _is_silent(address: str, trusted: ssl.SSLContext) -> bool:
    try:
        httpx.get(f"https://{address}/health", verify=trusted, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.TimeoutException:
        return True
    except httpx.TransportError:
        pass  # the supervisor sees to it
    return False
