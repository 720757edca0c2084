"""Softmax regression, its gradient, and batches of all images: what equations can be checked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.training import TrainingResult, learning_rate_at, train_locally
from ppfl.settings import TrainingOptions

Arrays = dict[str, NDArray[Any]]

WHOLE_BATCH = TrainingOptions(
    rounds=2,
    local_epochs=4,
    batch_size=64,
    optimiser="sgd",
    learning_rate=0.5,
    weight_decay=0.0,
    class_weighting=False,
    augmentation=False,
)


class Softmax(nn.Module):
    """Softmax regression on the mean of each channel, all of which are the grey image's."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)
        with torch.no_grad():
            self.last.weight.copy_(torch.arange(9).reshape(3, 3) / 10)
            self.last.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(images.mean(dim=(2, 3)))
        return logits


def grey_images(seed: int, count: int, *, inverted: bool = False) -> ImageSet:
    """Grey squares whose brightness, or darkness, is their class; as many of each class."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).integers(0, 60, (count, 8, 8))
    grey = (labels[:, None, None] * 90 + noise).astype(np.uint8)
    return ImageSet(255 - grey if inverted else grey, labels)


def train(
    model: nn.Module, data: ImageSet, options: TrainingOptions, *, number: int = 1, **more: Any
) -> TrainingResult:
    return train_locally(
        model,
        data,
        options,
        classes=3,
        normalisation=(0.5, 2.0),
        round_number=number,
        seed=3,
        **more,
    )


def gradient_of(
    data: ImageSet,
    w: Arrays,
    *,
    prior: Sequence[float] = (0, 0, 0),
    weights: Sequence[float] = (1, 1, 1),
) -> Arrays:
    """Of the mean cross-entropy of softmax regression over all images.

    ``prior`` is added to the logits; ``weights`` are what an image of each class counts.
    """
    means = (data.images / 255).mean(axis=(1, 2)) / 2 - 0.25
    features = np.repeat(means[:, None], 3, axis=1)
    logits = features @ w["last.weight"].T + w["last.bias"] + np.array(prior)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(p)), data.labels] -= 1
    p *= np.array(weights)[data.labels, None]
    return {"last.weight": p.T @ features / len(p), "last.bias": p.mean(axis=0)}


def rates_of(options: TrainingOptions, number: int) -> list[float]:
    k = options.local_epochs  # steps, because a batch holds all images
    shares = [(number - 1 + (step + 0.5) / k) / options.rounds for step in range(k)]
    return [learning_rate_at(share, options) for share in shares]


def as_float64(model: nn.Module) -> Arrays:
    return {name: array.astype(np.float64) for name, array in get_parameters(model).items()}


def assert_close(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
