"""A site's own model against gradient steps on its last layer, taken by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.training import learning_rate_at
from ppfl.settings import Study, TrainingOptions
from sites.personal import personalise

_EPOCHS = 4
_CLASSES = 3


class _Network(nn.Module):
    """A convolution with batch norm, and a last layer on what it makes of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.last = nn.Linear(5, _CLASSES)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.body(images)
        return maps.mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.features(images))
        return logits


def _study() -> Study:
    training = {
        **{"rounds": 7, "local_epochs": 3, "personalise_epochs": _EPOCHS, "batch_size": 64},
        **{"optimiser": "sgd", "learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.0},
        **{"augmentation": False, "class_weighting": False, "proximal_mu": 0.5},
        "logit_adjustment": 1.0,
    }
    federation = {"sites": ["east", "west"]}
    classes = ["a", "b", "c"]
    return Study.model_validate(
        {"name": "s", "classes": classes, "training": training, "federation": federation}
    )


def test_the_last_layer_takes_plain_gradient_steps_and_nothing_else_moves() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = _Network()
    network.body[1].running_mean.fill_(0.1)  # type: ignore[union-attr, operator]
    rng = np.random.default_rng(2)
    labels = np.arange(30) % _CLASSES
    labels[:6] = 0
    noise = rng.integers(0, 60, (30, 8, 8))
    data = ImageSet((labels[:, None, None] * 90 + noise).astype(np.uint8), labels)
    before = {name: array.astype(np.float64) for name, array in get_parameters(network).items()}
    network.eval()
    pixels = torch.from_numpy(((data.images / 255 - 0.5) / 0.25).astype(np.float32))
    with torch.no_grad():
        features = network.features(pixels[:, None].expand(-1, 3, -1, -1)).double().numpy()

    personalise(
        network,
        data,
        _study(),
        normalisation=(0.5, 0.25),
        seed=3,
        progress=lambda *_: None,
    )

    w, b = before["last.weight"], before["last.bias"]
    once = TrainingOptions(rounds=1, learning_rate=0.5)
    for step in range(_EPOCHS):  # a batch holds all images
        logits = features @ w.T + b
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p[np.arange(len(p)), labels] -= 1
        rate = learning_rate_at((step + 0.5) / _EPOCHS, once)
        w, b = w - rate * p.T @ features / len(p), b - rate * p.mean(axis=0)
    after = get_parameters(network)
    np.testing.assert_allclose(after.pop("last.weight"), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.pop("last.bias"), b, rtol=1e-4, atol=1e-5)
    assert np.abs(w - before["last.weight"]).max() > 0.01
    assert len(after) == 6
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name].astype(np.float32))
