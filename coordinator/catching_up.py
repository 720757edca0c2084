"""Sites that missed totals, in a study whose server optimiser needs all of them in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from flwr.app import RecordDict

from coordinator.roster import Roster
from ppfl.errors import BehindError, RunError
from ppfl.federation.ciphertexts import KeptCiphertexts
from ppfl.settings import Study
from sites.requests import Parameters, Refusal
from sites.server_states import history_after

_FOLDER = "totals"
_NAME = "total"


class CatchingUp:
    """Keeps every total of a run, all ciphertexts, and hands a site those that it missed.

    Args:
        folder: the run's folder.
        study: the study; where it has no server optimiser, all of this does nothing.
        roster: the sites.
        request: makes a request for a round, from its fields.
    """

    def __init__(
        self, folder: Path, study: Study, roster: Roster, request: Callable[..., RecordDict]
    ) -> None:
        self._needed = study.training.server_optimiser != "average"
        self._totals = KeptCiphertexts(folder / _FOLDER)
        self._roster, self._request = roster, request
        self._histories = [""]  # by round: of the totals up to it
        self._in_step: dict[str, int] = {}  # by site: the last total that it has stepped over

    @property
    def history(self) -> str:
        """The digest of all totals so far, empty before the first."""
        return self._histories[-1]

    def keep(self, round_number: int, total: bytes) -> None:
        """Keep a round's total, the next one after those that are kept.

        Raises:
            DiskFullError: there is no room for it.
            RunError: it cannot be written.
        """
        if not self._needed:
            return
        self._totals.write(round_number, _NAME, total)
        self._histories.append(history_after(self.history, total))

    def resume(self, done: int) -> None:
        """Begin with the totals of an earlier process, up to round ``done``.

        Raises:
            RunError: one of them is missing.
        """
        for number in range(1, done + 1 if self._needed else 1):
            self._histories.append(history_after(self.history, self._read(number)))

    def note(self, site: str, round_number: int) -> None:
        """A site has answered in a round, and so has stepped over the total before it."""
        self._in_step[site] = round_number - 1

    def bring_into_step(self, round_number: int, start: Parameters) -> list[int]:
        """The nodes that can take part in a round, after those behind were sent what they missed.

        A site is asked how far it has come where this process does not know it. One that cannot
        catch up is left out of the round, and is asked again before the next.
        """
        if not self._needed:
            return self._roster.nodes
        names = dict(zip(self._roster.nodes, self._roster.names, strict=True))
        goal = round_number - 2  # over the total before it, the site steps in the round itself
        behind = {node: -1 for node, site in names.items() if self._in_step.get(site, 0) < goal}
        lost = set(behind)
        while behind:
            groups = defaultdict(list)
            for node, reached in behind.items():
                groups[reached].append(node)
            behind = {}
            for reached, nodes in groups.items():
                for answered in self._roster.ask(
                    "query.catch_up", nodes, self._missed(reached, start), round_number
                ):
                    told = answered.answer.history
                    now = self._histories.index(told) if told in self._histories else 0
                    if now >= goal:
                        self._in_step[answered.site] = now
                        lost.discard(answered.node)
                    elif now > reached:
                        behind[answered.node] = now
                    else:
                        refusal = Refusal(
                            answered.site, BehindError.code, BehindError.public_sentence
                        )
                        self._roster.fail(round_number, answered.node, refusal)
        return [node for node in names if node not in lost]

    def _missed(self, reached: int, start: Parameters) -> RecordDict:
        """The next total for a site that has come so far; with -1, only the question how far."""
        if reached < 0:
            return self._request(1)
        number = reached + 1
        return self._request(
            number + 1,
            total=self._read(number),
            history=self._histories[number],
            start=start if number == 1 else {},
        )

    def _read(self, number: int) -> bytes:
        total = self._totals.read(number, _NAME)
        if total is None:
            raise RunError(
                f"the total of round {number} is not there, and the server optimiser needs it",
                hint=f"put the run's folder {_FOLDER} back, or begin anew",
            )
        return total
