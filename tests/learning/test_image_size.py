"""Whether a network takes images of the study's size is known before a federation begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppfl.errors import ModelError
from ppfl.learning.models import build_study_model, check_image_size, get_parameters
from ppfl.settings import Study, check_settings


def _study(architecture: str, size: int) -> Study:
    table = {
        "name": "size",
        "classes": ["Normal", "Effusion"],
        "images": {"size": size},
        "model": {"architecture": architecture},
        "federation": {"sites": ["one", "two"]},
    }
    return check_settings(table, Study, where="test")


@pytest.mark.parametrize(
    ("architecture", "size", "fits"),
    [("vit_b_16", 128, 224), ("alexnet", 32, 64), ("inception_v3", 64, 75)],
)
def test_a_size_that_the_network_cannot_take(architecture: str, size: int, fits: int) -> None:
    model = build_study_model(_study(architecture, size))
    told = f"images.size: {architecture} cannot take images of {size} × {size} pixels"
    with pytest.raises(ModelError, match=told) as caught:
        check_image_size(model, _study(architecture, size))
    assert "224" in caught.value.hint
    check_image_size(model, _study(architecture, fits))


@pytest.mark.parametrize(
    "architecture",
    [
        *("densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "regnet_x_400mf"),
        *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
    ],
)
def test_most_networks_take_small_images_and_stay_as_they_are(architecture: str) -> None:
    study = _study(architecture, 32)
    model = build_study_model(study)
    before = get_parameters(model)
    check_image_size(model, study)
    assert model.training
    for name, array in get_parameters(model).items():
        np.testing.assert_array_equal(array, before[name])
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
