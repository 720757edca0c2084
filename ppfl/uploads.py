"""How much of its answer each site has sent, in a small file for whoever looks meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

UPLOADS = "uploads.json"
"""The file's name in the coordinator's run folder."""

_EVERY_S = 1.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Sending:
    """An answer that comes in just now, or whose site was lost on the way.

    ``bytes`` have come in; ``began`` and ``last`` are when it was announced, and when the last
    bytes came, in seconds since 1970.
    """

    bytes: int
    began: float
    last: float


class Uploads:
    """Counts what comes in of each site's answer, and writes it down once a second.

    A file that cannot be written is left as it is: that nobody sees it keeps no answer out.

    Args:
        path: the file, made anew.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        self._sending: dict[str, Sending] = {}
        self._write()

    def begin(self, site: str) -> None:
        """A site has announced an answer; announced again, it goes on."""
        if site not in self._sending:
            self._sending[site] = Sending(0, now := time.time(), now)
            self._write()

    @contextmanager
    def counting(self, site: str) -> Iterator[Callable[[int], None]]:
        """Count a part of a site's answer as it comes in, and forget it if it does not to its end.

        Nothing is counted of a site that has announced no answer.
        """
        came = 0

        def count(size: int) -> None:
            nonlocal came
            came += size
            self._add(site, size)

        try:
            yield count
        except BaseException:
            self._add(site, -came)
            raise

    def end(self, site: str) -> None:
        """A site is not sending any more."""
        if self._sending.pop(site, None) is not None:
            self._write()

    def _add(self, site: str, size: int) -> None:
        if sending := self._sending.get(site):
            last = time.time() if size > 0 else sending.last
            self._sending[site] = Sending(sending.bytes + size, sending.began, last)
            if time.monotonic() - self._written > _EVERY_S:
                self._write()

    def _write(self) -> None:
        table = {name: asdict(sending) for name, sending in self._sending.items()}
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps({"version": _VERSION, "sites": table}), encoding="utf-8")
            part.replace(self._path)
        self._written = time.monotonic()


def read_uploads(path: Path) -> dict[str, Sending]:
    """What comes in just now by the sites' names; nothing where there is no such file."""
    try:
        table = json.loads(path.read_bytes())
        return {name: Sending(**each) for name, each in table["sites"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
