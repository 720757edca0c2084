"""The model that a study ends with, in one file with all that is needed to use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppfl.errors import ModelError
from ppfl.learning.files import load_model, parameters_sha256, save_model
from ppfl.learning.images import ImageSet
from ppfl.learning.metrics import EvaluationCounts
from ppfl.learning.models import build_model, get_parameters, set_parameters
from ppfl.learning.prediction import evaluate, predict
from ppfl.xray.pictures import Equalise

_EQUALISE: dict[str, Equalise] = {name: name for name in get_args(Equalise)}


@dataclass(frozen=True, slots=True, eq=False)
class StudyModel:
    """A trained network and what its input and output mean.

    ``size`` is the side of the square input in pixels, ``normalisation`` mean and standard
    deviation of a pixel in [0, 1], ``cipher`` what the network sees in place of a pixel and
    ``equalise`` what is done to grey levels (both as in the study's ``images``), ``group_norm``
    whether group norm stands for batch norm in it.
    """

    network: nn.Module
    architecture: str
    classes: tuple[str, ...]
    size: int
    normalisation: tuple[float, float]
    cipher: str = "none"
    group_norm: bool = False
    equalise: Equalise = "none"

    def write(self, path: Path, *, study: str) -> None:
        """Write it as safetensors, for its owner's eyes; ``study`` is the study's fingerprint.

        Raises:
            ModelError: the file cannot be written.
        """
        parameters = get_parameters(self.network)
        save_model(
            path,
            parameters,
            metadata={
                "study": study,
                "architecture": self.architecture,
                "classes": json.dumps(self.classes),
                "size": str(self.size),
                "normalisation": json.dumps(self.normalisation),
                "cipher": self.cipher,
                "group_norm": json.dumps(self.group_norm),
                "equalise": self.equalise,
                "sha256": parameters_sha256(parameters),
            },
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The model in a file that ``write`` made.

        Raises:
            ModelError: the file cannot be read, is damaged, or is no model of a study.
        """
        parameters, metadata = load_model(path)
        try:
            classes = tuple(str(name) for name in json.loads(metadata["classes"]))
            mean, deviation = (float(number) for number in json.loads(metadata["normalisation"]))
            size, architecture = int(metadata["size"]), metadata["architecture"]
            sha256, cipher = metadata["sha256"], metadata.get("cipher", "none")
            equalise = _EQUALISE[metadata.get("equalise", "none")]
            group_norm = bool(json.loads(metadata.get("group_norm", "false")))
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{path}: not the model of a study") from None
        if parameters_sha256(parameters) != sha256:
            raise ModelError(f"{path}: the parameters are not those that were written")
        network = build_model(architecture, classes=len(classes), seed=0, group_norm=group_norm)
        set_parameters(network, parameters)
        return cls(
            network,
            architecture,
            classes,
            size,
            (mean, deviation),
            cipher,
            group_norm=group_norm,
            equalise=equalise,
        )

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, classes) for 8-bit images (n, size, size), or cipher images.

        Raises:
            ModelError: the network was trained on cipher images and these are X-rays, or the
                other way round.
            NotFiniteError: the network answers with NaN or infinity.
        """
        self._require(images)
        return predict(self.network, images, normalisation=self.normalisation)

    def evaluate(self, images: ImageSet) -> EvaluationCounts:
        """The counts of the model on labelled images.

        Raises:
            DataError: a label is no class.
            ModelError: as for ``predict``.
            NotFiniteError: the network answers with NaN or infinity.
        """
        self._require(images.images)
        return evaluate(
            self.network, images, classes=len(self.classes), normalisation=self.normalisation
        )

    def _require(self, images: NDArray[np.uint8]) -> None:
        if (images.ndim == 4) != (self.cipher != "none"):
            raise ModelError(
                f"the model reads images with cipher = {self.cipher}, these are others",
                hint="ppfl evaluate and predict read models of X-rays; see docs/reproduction.md",
            )
