"""What the coordinator keeps so that a study can go on after a crash: ciphertexts only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ppfl.errors import RunError, StudyMismatchError, write_error
from ppfl.files import replace_private

_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A study after ``round_number`` complete rounds.

    ``total`` is the last round's sum, a sealed vector on the wire; ``run`` names the run at the
    sites.
    """

    study: str
    run: str
    round_number: int
    total: bytes

    def write(self, path: Path) -> None:
        """Replace the checkpoint in a file, wholly or not at all.

        Raises:
            DiskFullError: there is no room for it.
            RunError: the file cannot be written.
        """
        header = {
            "version": 1,
            "study": self.study,
            "run": self.run,
            "round_number": self.round_number,
            "sha256": hashlib.sha256(self.total).hexdigest(),
        }
        try:
            replace_private(path, [json.dumps(header).encode(), b"\n", self.total])
        except OSError as error:
            raise write_error(f"{path}: the checkpoint cannot be written", error) from None

    @classmethod
    def read(cls, path: Path, *, study: str) -> Self:
        """The checkpoint in a file.

        Raises:
            RunError: there is none, or it is damaged.
            StudyMismatchError: it belongs to another study.
        """
        try:
            header, _, total = path.read_bytes().partition(b"\n")
        except OSError:
            raise RunError(f"{path}: no checkpoint to resume from") from None
        try:
            if len(header) > _LONGEST_HEADER:
                raise ValueError
            fields = json.loads(header)
            if fields["version"] != 1 or hashlib.sha256(total).hexdigest() != fields["sha256"]:
                raise ValueError
            checkpoint = cls(
                study=str(fields["study"]),
                run=str(fields["run"]),
                round_number=int(fields["round_number"]),
                total=total,
            )
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path}: the checkpoint is damaged") from None
        if checkpoint.study != study:
            raise StudyMismatchError(
                f"{path}: the checkpoint belongs to another study",
                hint="a changed study begins anew, in a new folder",
            )
        return checkpoint
