"""The sites' sealed counts and pixel sums, added up as they enroll."""

from __future__ import annotations

from pathlib import Path

from ppfl.errors import RunError
from ppfl.federation import Aggregation, Checkpoint
from ppfl.settings import Study


class Enrolment:
    """The sum of all sites that have enrolled in this process, and that of the run's first round.

    Weights follow the one, the normalisation of pixels the other, which is kept on disk: a network
    is trained and tested on pixels that mean the same in all rounds, whoever joins or is away.

    Args:
        folder: the run's folder.
        study: the study.
        aggregation: adds the sites' vectors.
    """

    def __init__(self, folder: Path, study: Study, aggregation: Aggregation) -> None:
        self._file = folder / "enrolment.bin"
        self._study, self._sum = study.fingerprint(), aggregation
        self._first = b""
        self.total = b""
        """The sum on the wire, as it was when it was last closed."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites in the sum."""
        return self._sum.answered

    @property
    def first(self) -> bytes:
        """The sum of the first round, empty where it is still the sum of all."""
        return b"" if self._first == self.total else self._first

    def resume(self, run: str) -> None:
        """Begin with the first round's sum of an earlier process.

        Raises:
            RunError: it is missing, damaged, or another run's.
        """
        kept = Checkpoint.read(self._file, study=self._study)
        if kept.run != run:
            raise RunError(f"{self._file}: another run's than the checkpoint")
        self._first = kept.total

    def add(self, site: str, sealed: bytes) -> None:
        """Add a site's vector, unless it is in the sum.

        Raises:
            PpflError: it is not one that can be added.
        """
        if site not in self._sum.answered:
            self._sum.accept(site, sealed)

    def close(self, run: str) -> None:
        """Take the sum of those that are in it by now.

        Raises:
            QuorumError: they are too few.
            RunError: it cannot be kept.
        """
        self.total = self._sum.total().to_bytes()
        if not self._first:
            Checkpoint(self._study, run, 0, self.total).write(self._file)
            self._first = self.total
