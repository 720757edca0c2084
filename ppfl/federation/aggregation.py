"""The coordinator's half of a round: checking and adding what it cannot read."""

from __future__ import annotations

from collections.abc import Collection

from ppfl.codec import SealedVector, Suite
from ppfl.errors import DuplicateAnswerError, QuorumError, RoundError


class Aggregation:
    """The running total of one round; each answer is added as it arrives and then forgotten.

    Args:
        suite: how the vectors are sealed.
        values: integers in each vector.
        sites: who may answer.
        minimum_sites: how many must have answered for the total to be used.
    """

    def __init__(
        self, suite: Suite, *, values: int, sites: Collection[str], minimum_sites: int
    ) -> None:
        self._suite = suite
        self._values = values
        self._sites = frozenset(sites)
        self._minimum_sites = minimum_sites
        self._answered: list[str] = []
        self._total: SealedVector | None = None

    @property
    def answered(self) -> tuple[str, ...]:
        """The sites in the total, in the order in which they came."""
        return tuple(self._answered)

    def accept(self, site: str, data: bytes) -> None:
        """Add one site's vector; the total is unchanged if it is refused.

        Raises:
            RoundError: the site was not asked.
            DuplicateAnswerError: it has answered already.
            MalformedMessageError: the bytes are no vector of the study.
            KeyMismatchError: they are sealed under another key.
        """
        if site not in self._sites:
            raise RoundError(f"{site} was not asked in this round")
        if site in self._answered:
            raise DuplicateAnswerError(f"{site} has answered already")
        vector = self._suite.read(data, values=self._values)
        if vector.summands != 1:
            raise RoundError(f"{site} sent a sum of {vector.summands} vectors, not its own")
        self._total = self._suite.add(self._total, vector)
        self._answered.append(site)

    def total(self) -> SealedVector:
        """The sum of all answers so far.

        Raises:
            QuorumError: fewer sites have answered than the study needs.
        """
        if self._total is None or len(self._answered) < self._minimum_sites:
            raise QuorumError(
                f"{len(self._answered)} of {len(self._sites)} sites answered, "
                f"{self._minimum_sites} are needed",
                hint="go on with the same command and --resume when the sites are back",
            )
        return self._total
