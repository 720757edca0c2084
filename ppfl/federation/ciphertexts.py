"""The vectors that a coordinator keeps after they were added, if the study has it so."""

from __future__ import annotations

from pathlib import Path

from ppfl.errors import RunError, write_error
from ppfl.files import replace_private

CIPHERTEXTS = "ciphertexts"
"""In a run's folder, the folder of these files."""


class KeptCiphertexts:
    """Each site's vector of each round, in a folder of files that only their owner can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, round_number: int, site: str, wire: bytes) -> None:
        """Keep one vector, in place of the one that the site sent for this round before.

        Raises:
            DiskFullError: there is no room for it.
            RunError: it cannot be written.
        """
        path = self._path(round_number, site)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_private(path, [wire])
        except OSError as error:
            raise write_error(f"{path}: cannot be written", error) from None

    def read(self, round_number: int, site: str) -> bytes | None:
        """One vector, None if it is not there.

        Raises:
            RunError: it cannot be read.
        """
        path = self._path(round_number, site)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from None

    def _path(self, round_number: int, site: str) -> Path:
        return self._folder / f"round-{round_number:04d}" / f"{site}.bin"
