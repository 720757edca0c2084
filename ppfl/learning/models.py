"""The network, and its parameters as named arrays.

[LJZ21] Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated learning on non-IID features via local batch
normalization. ICLR 2021.

[ALC19] Arivazhagan, Aggarwal, Singh, Choudhary: Federated learning with personalization layers.
arXiv:1912.00818, 2019.

[WH18] Wu, He: Group normalization. ECCV 2018.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import get_model, get_model_weights, list_models

from ppfl.errors import ModelError, NotFiniteError, WeightsError
from ppfl.learning.files import read_tensors
from ppfl.settings import ModelOptions, Study

_AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")  # second outputs that build_model leaves out
_GROUP_CHANNELS = (
    16  # of one group [WH18, table 4], or as many of them as divide a layer's channels
)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # as in torchvision's files


def build_study_model(study: Study) -> nn.Module:
    """The network of a study, in which only what the study trains requires gradients.

    Raises:
        ModelError: torchvision has no such classifier, or it no such layer as ``train_from``, or no
            batch norm where the study's method is about that.
    """
    options, frozen_rounds = study.model, study.training.frozen_rounds
    model = build_model(
        options.architecture,
        classes=len(study.classes),
        seed=study.seed,
        group_norm=options.batch_norm == "group",
    )
    if frozen_rounds or options.batch_norm != "average":
        normed = any(isinstance(m, _BatchNorm | nn.GroupNorm) for m in model.modules())
        setting = f'model.batch_norm = "{options.batch_norm}"'
        if not normed:
            setting = "training.frozen_statistics" if frozen_rounds else setting
            raise ModelError(f"{setting}: {options.architecture} has no batch norm")
    frozen = _frozen_names(get_parameters(model), options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model


def check_image_size(model: nn.Module, study: Study) -> None:
    """Check that a study's network takes images of its size: vit_b_16 takes none but of 224 pixels.

    Two images go through it on torch's meta device, where nothing but shapes is worked out: that
    takes a fraction of a second and no memory. The model stays as it is.

    Raises:
        ModelError: the network cannot take such images.
    """
    size, training = study.images.size, model.training
    shapes = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            functional_call(model.eval(), shapes, torch.zeros(2, 3, size, size, device="meta"))
    except Exception:  # layers raise almost anything, and tell it in their own terms
        raise ModelError(
            f"images.size: {study.model.architecture} cannot take images of {size} × {size} pixels",
            hint="set it to 224, which all of torchvision's classifiers take, or choose another",
        ) from None
    finally:
        model.train(training)


def build_model(
    architecture: str, *, classes: int, seed: int, group_norm: bool = False
) -> nn.Module:
    """A classifier of ``torchvision.models`` with random weights, the same for the same seed.

    Input (n, 3, h, w), output (n, classes) logits, also where torchvision would add auxiliary
    outputs. torch's global random state is left as it was. With ``group_norm`` every batch norm
    gives way to a group norm of its weights and biases [WH18].

    Raises:
        ModelError: torchvision has no classifier of that name.
    """
    names = list_models(module=torchvision.models)
    if architecture not in names:
        otherwise = "see torchvision's documentation for the names of its classifiers"
        raise ModelError(
            f"torchvision has no classifier called {architecture!r}",
            hint=_near(architecture, names) or otherwise,
        )
    options: dict[str, bool] = {}
    if architecture in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = get_model(architecture, weights=None, num_classes=classes, **options)
    if group_norm:
        for prefix, layer in batch_norm_layers(model).items():
            parent, _, child = prefix.removesuffix(".").rpartition(".")
            setattr(model.get_submodule(parent), child, _group_norm(layer))
    return model


def _group_norm(layer: _BatchNorm) -> nn.GroupNorm:
    channels = layer.num_features
    groups = channels // math.gcd(channels, _GROUP_CHANNELS)
    norm = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)
    norm.load_state_dict(dict(layer.named_parameters()))
    return norm


def _near(name: str, names: Collection[str]) -> str:
    """A hint at names like this one, empty where there is none."""
    close = difflib.get_close_matches(name, names)
    return f"did you mean {' or '.join(close)}?" if close else ""


def load_pretrained(model: nn.Module, source: Path | None, *, architecture: str) -> list[str]:
    """The names of the tensors left at their start after ImageNet weights went into the model.

    Only tensors of the last layer can be left, because their number of classes differs. Where a
    group norm took a batch norm's place, running statistics go into the layers' weights, or the
    network would tell no two images apart. The weights come from a file (see ``read_tensors``), or,
    without one, from torchvision's site.

    Raises:
        ModelError: the weights cannot be had, or do not fit: a tensor is missing, unknown or of
            another shape. The model is then unchanged.
        NotFiniteError: a tensor holds NaN or infinity. The model is then unchanged.
    """
    where = f"torchvision's weights of {architecture}" if source is None else str(source)
    tensors = _download(architecture) if source is None else read_tensors(source)
    found = {
        _OLD_DENSENET.sub(r"\1\2.", name): tensor
        for name, tensor in tensors.items()
        if not _AUXILIARY.match(name)
    }
    _fold_statistics(model, found)
    state = model.state_dict()
    unknown = [n for n in found if n not in state and not n.endswith("num_batches_tracked")]
    if unknown:
        raise ModelError(f"{where}: {unknown[0]}: the model has no such tensor")
    own, last = _floating(state), f"{last_layer(model)}."
    left = []
    for name, tensor in own.items():
        if name not in found:
            raise ModelError(f"{where}: {name}: missing")
        expected, got = tuple(tensor.shape), tuple(found[name].shape)
        if expected != got and name.startswith(last) and expected[1:] == got[1:]:
            left.append(name)
        elif expected != got:
            raise ModelError(f"{where}: {name}: expected shape {expected}, got {got}")
        elif not bool(found[name].isfinite().all()):
            raise NotFiniteError(f"{where}: {name}: NaN or infinity")
    for name in own.keys() - set(left):
        own[name].copy_(found[name])
    return left


def _fold_statistics(model: nn.Module, found: dict[str, Tensor]) -> None:
    """Take running statistics out, and put them into the group norms and the layers before them.

    With batch norm's mean m and variance v, d = √(v + ε) and u = m / d, the convolution gets W / d
    and the group norm γ √(mean v/d² + Var u + ε) and β − γ (u − mean u), over the channels of a
    group. In an image whose channels have these means and variances it does what batch norm did.

    Raises:
        ModelError: there is no convolution before a norm that could take its statistics.
    """
    before, place = nn.Module(), ""
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            mean, variance = (found.pop(f"{name}.{statistic}", None) for statistic in STATISTICS)
            told = mean is not None or variance is not None
            is_convolution = isinstance(before, nn.Conv2d)
            if told and not (is_convolution and before.out_channels == module.num_channels):
                raise ModelError(
                    f"{name}: pretrained batch norm cannot become group norm here, because there "
                    "is no convolution before it that could take its running statistics",
                    hint='start = "seed", batch_norm = "average", or another architecture',
                )
            weight, offset = f"{place}.weight", f"{place}.bias"
            scale, bias = f"{name}.weight", f"{name}.bias"
            if mean is None or variance is None or not {weight, scale, bias} <= found.keys():
                continue  # what is missing, or of another size, is told when all are compared
            sizes = {part.shape[:1] for part in (mean, variance, found[scale], found[bias])}
            if found[weight].shape != before.weight.shape or sizes != {found[weight].shape[:1]}:
                continue
            deviation = (variance.float() + module.eps).sqrt()
            u, v = (
                part.reshape(module.num_groups, -1)
                for part in (mean.float() / deviation, variance.float() / deviation.square())
            )
            apart = u - u.mean(dim=1, keepdim=True)
            inside = v.mean(dim=1, keepdim=True) + apart.square().mean(dim=1, keepdim=True)
            spread = (inside + module.eps).sqrt().expand_as(apart)
            found[weight] = found[weight] / deviation.reshape(-1, 1, 1, 1)
            if offset in found:
                found[offset] = found[offset] / deviation
            found[bias] = found[bias] - found[scale] * apart.flatten()
            found[scale] = found[scale] * spread.flatten()
        if not any(module.children()):
            before, place = module, name


def _download(architecture: str) -> dict[str, Tensor]:
    try:
        weights = get_model_weights(architecture).DEFAULT
        tensors: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"torchvision's weights of {architecture} cannot be downloaded: {error}",
            hint="give a file that holds the weights, copied from a machine with access",
        ) from None
    return tensors


def last_layer(model: nn.Module) -> str:
    """The name of the layer that gives the logits; SqueezeNet alone ends in a convolution."""
    layers = (nn.Linear, nn.Conv2d)
    names: list[str] = [n for n, module in model.named_modules() if isinstance(module, layers)]
    return names[-1]


STATISTICS = ("running_mean", "running_var")
"""How the names of batch norm's running statistics end; nothing but the images moves them."""


def get_parameters(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of the model's floating-point tensors, in state-dict order.

    The running statistics of batch norm are among them, its counters are not.
    """
    return {
        name: np.array(tensor.cpu().numpy(), dtype=np.float32, order="C")
        for name, tensor in _floating(model.state_dict()).items()
    }


def _floating(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def shared_names(names: Iterable[str], options: ModelOptions) -> list[str]:
    """Those of a network's parameters that the sites average, in the order of ``names``.

    Of the others, those before ``train_from`` stay at every site as they started, and the rest are
    local: each site trains its own, from the same start. They are all tensors of ``local_layers``
    [ALC19], and, where ``batch_norm`` is local, all of each layer that has running statistics
    [LJZ21].

    Raises:
        ModelError: the network has no such layer, a local layer is not trained, or nothing is left
            to average.
    """
    names = list(names)
    frozen = _frozen_names(names, options)
    for layer in options.local_layers:
        if frozen.issuperset(_inside(layer, names, "local_layers", options)):
            raise ModelError(
                f"model.local_layers: {layer!r} lies before train_from = {options.train_from!r}, "
                "and is not trained"
            )
    local = set(options.local_layers)
    if options.batch_norm == "local":
        local |= {name.rpartition(".")[0] for name in names if name.endswith(".running_mean")}
    trained = [name for name in names if name not in frozen]
    shared = [name for name in trained if local.isdisjoint(_layers_around(name))]
    if not shared:
        raise ModelError(
            f"model.local_layers: every parameter of {options.architecture} would stay at its site",
            hint="leave at least one layer to average",
        )
    return shared


def local_names(names: Iterable[str], options: ModelOptions) -> list[str]:
    """Those of a network's parameters that each site trains for itself; raises as above."""
    names = list(names)
    elsewhere = _frozen_names(names, options).union(shared_names(names, options))
    return [name for name in names if name not in elsewhere]


def _frozen_names(names: Iterable[str], options: ModelOptions) -> frozenset[str]:
    """The tensors before the first one of ``train_from``, in the network's order."""
    names = list(names)
    if not options.train_from:
        return frozenset()
    first = _inside(options.train_from, names, "train_from", options)[0]
    return frozenset(names[: names.index(first)])


def _inside(layer: str, names: list[str], key: str, options: ModelOptions) -> list[str]:
    """The tensors of a layer that the study names, at least one."""
    inside = [name for name in names if layer in _layers_around(name)]
    if not inside:
        layers = dict.fromkeys(layer for name in names for layer in _layers_around(name))
        outermost = ", ".join(name for name in layers if "." not in name)
        raise ModelError(
            f"model.{key}: {options.architecture} has no layer {layer!r} that holds parameters",
            hint=_near(layer, layers) or f"its outermost layers are {outermost}",
        )
    return inside


def _layers_around(name: str) -> list[str]:
    """The names of the layers that a tensor lies in: ``a`` and ``a.b`` for ``a.b.weight``."""
    return list(itertools.accumulate(name.split(".")[:-1], "{}.{}".format))


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The model's batch-norm layers by the prefix of their tensors' names, with its final dot."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return {
        f"{name}.": module for name, module in model.named_modules() if isinstance(module, kinds)
    }


def set_parameters(model: nn.Module, parameters: Mapping[str, NDArray[np.float32]]) -> None:
    """Put all parameters into the model, in the order of ``get_parameters``.

    Raises:
        ModelError: names, their order, shapes or types differ. The model is then unchanged.
        NotFiniteError: a tensor holds NaN or infinity. The model is then unchanged.
    """
    own = _floating(model.state_dict())
    for expected, got in itertools.zip_longest(own, parameters):
        if expected != got:
            raise ModelError(f"expected tensor {expected or 'end'}, got {got or 'end'}")
    for name, array in parameters.items():
        shape = tuple(own[name].shape)
        if array.shape != shape or array.dtype != np.float32:
            raise ModelError(
                f"{name}: expected float32 of shape {shape}, got {array.dtype} of {array.shape}"
            )
        if not np.isfinite(array).all():
            raise NotFiniteError(f"{name}: NaN or infinity")
    for name, array in parameters.items():
        own[name].copy_(torch.tensor(array))


def as_tensor(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Pixels (n, 1, h, w) in [0, 1] of grey images (n, h, w), or (n, 3, h, w) of (n, h, w, 3)."""
    pixels = torch.tensor(images, device=device)
    pixels = pixels.unsqueeze(1) if images.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.float().div_(255)


def network_input(pixels: Tensor, normalisation: tuple[float, float]) -> Tensor:
    """Normalised images (n, 3, h, w) in channels-last order from those of ``as_tensor``.

    ``pixels`` lie in [0, 1], as do the mean and the standard deviation of ``normalisation``.
    """
    mean, deviation = normalisation
    normalised = (pixels - mean) / deviation
    return normalised.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
