"""Which parts of an X-ray a network's answer rests on: Grad-CAM [SCD17].

[SCD17] R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra, "Grad-CAM: visual
explanations from deep networks via gradient-based localization", ICCV 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ppfl.errors import ModelError
from ppfl.learning.device import choose_device
from ppfl.learning.models import as_tensor, last_layer, network_input
from ppfl.learning.study_model import StudyModel

_BATCH = 32


def grad_cam(
    model: StudyModel, images: NDArray[np.uint8], classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Maps (n, size, size) in [0, 1] of what speaks for each image's class, given in ``classes``.

    They come from the last maps that the network makes, MobileNetV2's being a 32nd of the image's
    side, and are smooth between: an arrow to a region, no outline. Each is scaled by itself,
    from its lowest to its highest value.

    Raises:
        ModelError: the network makes no maps, or reads cipher images.
    """
    from pytorch_grad_cam import GradCAM  # of the extra `shortcuts`
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer = model.network.get_submodule(_last_maps(model))
    device = choose_device()
    model.network.to(device)
    found = []
    with GradCAM(model=model.network, target_layers=[layer]) as cam:
        for start in range(0, len(images), _BATCH):
            pixels = as_tensor(images[start : start + _BATCH], device)
            targets = [ClassifierOutputTarget(int(c)) for c in classes[start : start + _BATCH]]
            found.append(cam(network_input(pixels, model.normalisation), targets))
    model.network.zero_grad()
    return np.concatenate(found).astype(np.float32)


def _last_maps(model: StudyModel) -> str:
    """The name of the layer whose output is the last, before the logits, to have height and width.

    It is found by looking on while the network answers, because torchvision's networks call such
    layers by many names.
    """
    finished: list[str] = []
    handles = []

    def look_at(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                finished.append(name)

        handles.append(layer.register_forward_hook(hook))

    for name, layer in model.network.named_modules():
        if name:
            look_at(name, layer)
    end = model.network.get_submodule(last_layer(model.network))
    handles.append(end.register_forward_pre_hook(lambda *_: finished.append("")))
    try:
        model.predict(np.zeros((1, model.size, model.size), np.uint8))
    finally:
        for handle in handles:
            handle.remove()
    before = finished[: finished.index("")]
    if not before:
        raise ModelError(f"{model.architecture} makes no maps that Grad-CAM could show")
    return before[-1]
