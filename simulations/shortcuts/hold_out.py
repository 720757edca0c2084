"""Models trained without one hospital, to be tested on its X-rays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from ppfl.errors import DataError, ModelError
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.images import normalisation_of, order_images, pixel_sums
from ppfl.learning.models import build_study_model, set_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.learning.training import train_locally
from ppfl.settings import Study
from simulations.comparison.baselines import without_federation
from simulations.shortcuts.xrays import Side


class HeldOut:
    """Trains on all hospitals' X-rays but one's, pooled, with the study's settings.

    What corrects a site's steps for others' sake is left out, and SCAFFOLD is SGD.

    A model that is done is kept in ``folder`` and read the next time.

    Raises:
        ModelError: ``start`` does not hold the parameters that the study starts from.
        DataError: without one of the hospitals there is nothing to train on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: StudyModel,
        study: Study,
        start: Path,
        fit: Side,
        talk: Console,
    ) -> None:
        self._folder, self._model, self._study, self._fit = folder, model, study, fit
        self._talk = talk
        self._start, _ = load_model(start)
        if parameters_sha256(self._start) != study.model.start_sha256:
            raise ModelError(f"{start}: not what the study starts from")
        if len(np.unique(fit.sites)) < 2:
            raise DataError(
                "--hold-out: no two hospitals are known among the X-rays to train on",
                hint="the column site of the data's table says which hospital an X-ray is of",
            )

    def without(self, site: str) -> StudyModel:
        """The model that never saw the hospital's X-rays."""
        study, classes = self._study, self._model.classes
        side = self._fit[self._fit.sites != site]
        # of what it is trained on: the same name in another table may stand for other X-rays
        kept = self._folder / f"without-{_digest(side)}.safetensors"
        if kept.exists() and load_model(kept)[1].get("study") == study.fingerprint():
            return StudyModel.read(kept)
        images = order_images(side.images, side.labels, list(map(str, side.groups)))
        normalisation = study.images.normalisation
        if normalisation == "federation":
            normalisation = normalisation_of(*pixel_sums(images))
        network = build_study_model(study)
        set_parameters(network, self._start)
        options = without_federation(study.training, sites=len(study.federation.sites))
        for number in range(1, study.training.rounds + 1):
            self._talk.print(f"  without {site}: round {number} of {study.training.rounds}")
            train_locally(
                network,
                images,
                options,
                classes=len(classes),
                normalisation=normalisation,
                round_number=number,
                seed=study.seed,
            )
        trained = replace(self._model, network=network, normalisation=normalisation)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        trained.write(kept, study=study.fingerprint())
        return trained


def _digest(side: Side) -> str:
    found = hashlib.sha256(json.dumps([*map(str, side.groups)]).encode())
    for values in (side.labels, side.images):
        found.update(values.tobytes())
    return found.hexdigest()[:24]
