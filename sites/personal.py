"""A site's own model, after the study: the last layer goes on learning from its own images.

[WMK19] Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage: Federated evaluation of on-device
personalization. arXiv:1910.10252, 2019.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ppfl.learning.images import ImageSet
from ppfl.learning.models import last_layer
from ppfl.learning.training import train_locally
from ppfl.settings import Study

PERSONAL_MODEL = "personal.safetensors"
"""In a site's work folder, the file of its own model."""


def personalise(
    model: nn.Module,
    data: ImageSet,
    study: Study,
    *,
    normalisation: tuple[float, float],
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train the model's last layer in place, for the study's ``personalise_epochs`` [WMK19].

    The rate rises and falls once, as it does over a whole study; all before the last layer stays
    as it is, batch norm's running statistics too.

    Args:
        model: the final model.
        data: the site's images to train on.
        study: the study; what its method adds to a step between sums is left out.
        normalisation: mean and standard deviation of a pixel in [0, 1].
        seed: where the order of images, their augmentation and dropout begin.
        progress: told the steps done and the steps in all, after each step.

    Raises:
        PpflError: as for ``train_locally``.
    """
    last = f"{last_layer(model)}."
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(last))
    options = study.training
    alone = {
        "rounds": 1,
        "local_epochs": options.personalise_epochs,
        "local_steps": 0,
        "optimiser": "adamw" if options.optimiser == "adamw" else "sgd",
        "proximal_mu": 0.0,
        "logit_adjustment": 0.0,  # the site's mix of classes is what it is for
        "frozen_statistics": 0.0,
    }
    train_locally(
        model,
        data,
        options.model_copy(update=alone),
        classes=len(study.classes),
        normalisation=normalisation,
        round_number=1,
        seed=seed,
        progress=progress,
        deadline_s=study.federation.deadline_s,
    )
