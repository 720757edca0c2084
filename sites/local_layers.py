"""The layers of a study that never leave a site, kept from one round to the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppfl.errors import NotFiniteError
from ppfl.learning.files import load_model, save_model
from sites.requests import Parameters


class LocalLayers:
    """The parameters that one site keeps to itself, in files that only their owner can read.

    Each file names the study, the run and the round after which it was written; those of another
    study or run are never read. Two rounds are kept: a round that is asked for again, after a
    crash, begins with what it began with the first time.

    Args:
        folder: the site's work folder.
        study: the study's fingerprint.
    """

    def __init__(self, folder: Path, *, study: str) -> None:
        self._folder, self._study = folder, study

    def before(self, round_number: int, *, run: str) -> Parameters:
        """The parameters after the last round before this one that the site trained in.

        They are empty where there is no such round.

        Raises:
            ModelError: a file is damaged.
        """
        kept = self._kept(run)
        last = max((number for number in kept if number < round_number), default=None)
        return {} if last is None else kept[last]

    def keep(self, parameters: Parameters, *, round_number: int, run: str) -> None:
        """Keep what a round's training ended with.

        Raises:
            NotFiniteError: a parameter is NaN or infinite; nothing is kept.
            ModelError: the file cannot be written.
        """
        for name, array in parameters.items():
            if not np.isfinite(array).all():
                raise NotFiniteError(f"{name}: NaN or infinity")
        earlier = [number for number in self._kept(run) if number < round_number]
        metadata = {"study": self._study, "run": run, "round": str(round_number)}
        save_model(self._path(round_number), parameters, metadata=metadata)
        needed = {self._path(number) for number in (round_number, *sorted(earlier)[-1:])}
        for path in self._files():
            if path not in needed:
                path.unlink()

    def _kept(self, run: str) -> dict[int, Parameters]:
        """The parameters in the files of this study and this run, by round."""
        kept = {}
        for path in self._files():
            parameters, metadata = load_model(path)
            if (metadata.get("study"), metadata.get("run")) == (self._study, run):
                kept[int(metadata["round"])] = parameters
        return kept

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("local-*.safetensors"))

    def _path(self, round_number: int) -> Path:
        return self._folder / f"local-{round_number}.safetensors"
