"""The server optimiser's state at one site: kept from round to round, and never out of step."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ppfl.errors import BehindError, ModelError
from ppfl.learning.files import load_model, save_model
from ppfl.learning.server_optimiser import ServerState
from ppfl.settings import Study
from sites.requests import Parameters

_PARTS = ("model", "momentum", "squares")


def history_after(history: str, total: bytes) -> str:
    """SHA-256 in hexadecimal over a study's totals on the wire, from the first to this one.

    ``history`` is that of the totals before it, empty before the first. The state of an optimiser
    is a function of these totals, so that sites of one history have one state.
    """
    return hashlib.sha256(history.encode() + hashlib.sha256(total).digest()).hexdigest()


class ServerStates:
    """The optimiser's states after the last two rounds, in files that only their owner can read.

    Each file names the study and the history of the totals that led to it; one of another history
    is never used. There are two of them because a round may be done again.

    Args:
        folder: the site's work folder.
        study: the study, which has a server optimiser.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self._folder, self._study = folder, study

    def step(
        self,
        average: Parameters,
        start: Parameters,
        *,
        round_number: int,
        total: bytes,
        history: str,
    ) -> Parameters:
        """The global model after a round, from the average in its total.

        Args:
            average: what was opened.
            start: the shared parameters before the first round.
            round_number: the round, from 1.
            total: the total on the wire.
            history: of all totals up to this one, as the coordinator tells it.

        Raises:
            BehindError: the state before this round is not here, because the site was away or
                lost it.
            ModelError: a file cannot be written.
        """
        reached = self._read(round_number)
        if reached and reached[1] == history:
            self._keep_only(round_number)  # what is later is of rounds that were done again
            return reached[0].model
        options = self._study.training
        before, earlier = ServerState.at_start(start, options), ""
        if round_number > 1:
            found = self._read(round_number - 1)
            if found is None:
                raise self._behind(round_number)
            before, earlier = found
        if history_after(earlier, total) != history:
            raise self._behind(round_number)
        state = before.step(average, options)
        self._write(state, round_number=round_number, history=history)
        return state.model

    def history(self) -> str:
        """That of the latest state which is kept, empty where there is none."""
        latest = max((int(path.stem.partition("-")[2]) for path in self._files()), default=0)
        found = self._read(latest)
        return found[1] if found else ""

    def _behind(self, round_number: int) -> BehindError:
        return BehindError(
            f"the server optimiser's state before round {round_number} is not here: this site was "
            "away, or its work folder is new",
            hint="nothing: the coordinator sends the totals that it missed before the next round",
        )

    def _read(self, round_number: int) -> tuple[ServerState, str] | None:
        """A state and its history, None where there is none, or none of this study.

        A file that is damaged is as good as none: the coordinator sends the totals again.
        """
        parts: dict[str, Parameters] = {part: {} for part in _PARTS}
        try:
            tensors, metadata = load_model(self._path(round_number))
            if metadata["study"] != self._study.fingerprint():
                return None
            for name, array in tensors.items():
                part, _, inner = name.partition(".")
                parts[part][inner] = array
            return ServerState(**parts), metadata["history"]
        except (ModelError, KeyError):
            return None

    def _write(self, state: ServerState, *, round_number: int, history: str) -> None:
        tensors = {
            f"{part}.{name}": array
            for part in _PARTS
            for name, array in getattr(state, part).items()
        }
        metadata = {"study": self._study.fingerprint(), "history": history}
        save_model(self._path(round_number), tensors, metadata=metadata)
        self._keep_only(round_number)

    def _keep_only(self, round_number: int) -> None:
        """Remove all states but that after a round and the one before."""
        needed = {self._path(round_number), self._path(round_number - 1)}
        for path in self._files():
            if path not in needed:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("server-*.safetensors"))

    def _path(self, round_number: int) -> Path:
        return self._folder / f"server-{round_number}.safetensors"
