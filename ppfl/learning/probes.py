"""What a network's features tell beside what it was trained for: linear probes [AB16].

[AB16] G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes",
2016, arXiv 1610.01644.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppfl.learning.models import last_layer
from ppfl.learning.study_model import StudyModel

_STRENGTH = 0.01  # of the fit against its penalty: there are about as many features as images
_ITERATIONS = 5000


def predict_with_features(
    model: StudyModel, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (n, classes) and penultimate features (n, d) of images (n, size, size).

    The features are what the last layer is given, averaged over the picture where that is a map.

    Raises:
        PpflError: as for ``StudyModel.predict``.
    """
    gathered: list[Tensor] = []

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given = inputs[0]
        gathered.append(given.mean(dim=(2, 3)) if given.ndim == 4 else given)

    layer = model.network.get_submodule(last_layer(model.network))
    handle = layer.register_forward_pre_hook(gather)
    try:
        probabilities = model.predict(images)
    finally:
        handle.remove()
    return probabilities, torch.cat(gathered).cpu().numpy()


def probe(
    features: NDArray[np.float32], targets: NDArray[np.str_], asked: NDArray[np.float32]
) -> NDArray[np.str_]:
    """What a linear classifier, fitted to features (n, d) of targets (n,), says of others (m, d).

    Logistic regression on standardised features, all with the same penalty, chosen beforehand: a
    probe that was tuned to the images asked about would tell too much.
    """
    from sklearn.linear_model import LogisticRegression  # of the extra `shortcuts`
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(
        StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=_ITERATIONS)
    ).fit(features, targets)
    answers: NDArray[np.str_] = fitted.predict(asked)
    return answers
