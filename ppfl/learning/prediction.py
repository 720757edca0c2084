"""What a model answers to X-rays, and the counts of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.errors import ModelError, NotFiniteError
from ppfl.learning.device import choose_device
from ppfl.learning.images import ImageSet
from ppfl.learning.metrics import EvaluationCounts
from ppfl.learning.models import as_tensor, network_input


def evaluate(
    model: nn.Module,
    data: ImageSet,
    *,
    classes: int,
    normalisation: tuple[float, float],
    batch_size: int = 64,
) -> EvaluationCounts:
    """The counts of the model on the images, of which there may be none.

    Raises:
        DataError: a label is no class.
        ModelError: the model has another number of classes.
        NotFiniteError: the model answers with NaN or infinity.
    """
    if len(data.labels) == 0:
        return EvaluationCounts.empty(classes)
    probabilities = predict(model, data.images, normalisation=normalisation, batch_size=batch_size)
    if probabilities.shape[1] != classes:
        raise ModelError(f"expected a model of {classes} classes, got {probabilities.shape[1]}")
    return EvaluationCounts.from_predictions(probabilities, data.labels)


def predict(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    normalisation: tuple[float, float],
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Probabilities (n, C) for 8-bit images (n, h, w) or (n, h, w, 3).

    The model is left in evaluation mode, on the device of `choose_device`.

    Raises:
        NotFiniteError: the model answers with NaN or infinity.
    """
    device = choose_device()
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    answers = []
    with torch.inference_mode():
        for start in range(0, max(len(images), 1), batch_size):
            pixels = as_tensor(images[start : start + batch_size], device)
            answers.append(model(network_input(pixels, normalisation)).softmax(dim=1))
    probabilities: NDArray[np.float32] = torch.cat(answers).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise NotFiniteError("the model answers with NaN or infinity")
    return probabilities
