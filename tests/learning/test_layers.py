"""Methods that treat some layers in their own way, against their papers' equations, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.errors import ModelError
from ppfl.learning.images import ImageSet
from ppfl.learning.models import (
    batch_norm_layers,
    build_model,
    build_study_model,
    get_parameters,
    load_pretrained,
    local_names,
    shared_names,
)
from ppfl.settings import ModelOptions, Study, TrainingOptions
from tests.learning.reference import (
    WHOLE_BATCH,
    Arrays,
    Softmax,
    as_float64,
    assert_close,
    grey_images,
    rates_of,
    train,
)

_NETWORK = "shufflenet_v2_x0_5"


def _study(**options: Any) -> Study:
    return Study.model_validate(
        {
            "name": "a",
            "classes": ["x", "y", "z"],
            "model": {"architecture": _NETWORK} | options,
            "federation": {"sites": ["east", "west"]},
        }
    )


def test_group_norm_takes_the_place_and_the_weights_of_every_batch_norm() -> None:
    plain = build_model(_NETWORK, classes=3, seed=1)
    grouped = build_study_model(_study(batch_norm="group"))
    assert not batch_norm_layers(grouped)
    rest = [name for name in get_parameters(plain) if "running" not in name]
    assert list(get_parameters(grouped)) == rest
    norms = {n: m for n, m in grouped.named_modules() if isinstance(m, nn.GroupNorm)}
    assert {f"{name}." for name in norms} == set(batch_norm_layers(plain))
    channels = {
        (norm.num_channels, norm.num_channels // norm.num_groups) for norm in norms.values()
    }
    assert channels == {(24, 8), (48, 16), (96, 16), (1024, 16)}
    x = torch.randn(2, 24, 5, 5, generator=torch.Generator().manual_seed(1))
    parts = x.numpy().reshape(2, 3, -1)
    mean, deviation = parts.mean(axis=2, keepdims=True), parts.std(axis=2, keepdims=True)
    expected = ((parts - mean) / deviation).reshape(x.shape)
    np.testing.assert_allclose(norms["conv1.1"](x).detach(), expected, atol=1e-4)
    gamma, beta = torch.linspace(-2, 3, 24), torch.linspace(5, 1, 24)
    with torch.no_grad():
        norms["conv1.1"].weight.copy_(gamma)
        norms["conv1.1"].bias.copy_(beta)
    moved = expected * gamma.numpy()[:, None, None] + beta.numpy()[:, None, None]
    np.testing.assert_allclose(norms["conv1.1"](x).detach(), moved, atol=1e-3)


def test_group_norm_begins_as_the_batch_norm_that_was_pretrained(tmp_path: Any) -> None:
    """In an image whose channels have the running means and variances, in each of its layers."""
    plain = build_model(_NETWORK, classes=5, seed=9)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))

    def take_statistics(layer: Any, inputs: Any, _: Any) -> None:
        layer.running_var, layer.running_mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)

    with torch.no_grad():
        for layer in batch_norm_layers(plain).values():
            layer.weight.uniform_(0.5, 2.0)
            layer.bias.normal_()
            layer.register_forward_hook(take_statistics)
        plain.train()(image)
        torch.save(plain.state_dict(), tmp_path / "weights.pth")
        grouped = build_study_model(_study(batch_norm="group"))
        left = load_pretrained(grouped, tmp_path / "weights.pth", architecture=_NETWORK)
        assert left == ["fc.weight", "fc.bias"]
        features = []
        for model in (plain.eval(), grouped.eval()):
            model.fc = nn.Identity()
            features.append(model(image))
    assert features[0].std() > 0.1
    torch.testing.assert_close(features[1], features[0], atol=1e-2, rtol=1e-2)


def test_group_norm_cannot_begin_as_a_batch_norm_without_a_convolution_before_it(
    tmp_path: Any,
) -> None:
    torch.save(build_model("densenet121", classes=3, seed=9).state_dict(), tmp_path / "w.pth")
    grouped = build_model("densenet121", classes=3, seed=1, group_norm=True)
    before = get_parameters(grouped)
    with pytest.raises(ModelError, match=r"norm1: pretrained batch norm cannot become group norm"):
        load_pretrained(grouped, tmp_path / "w.pth", architecture="densenet121")
    for name, array in get_parameters(grouped).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("batch_norm", "frozen_statistics", "told"),
    [
        ("group", 0.0, 'model.batch_norm = "group"'),
        ("local", 0.0, 'model.batch_norm = "local"'),
        ("average", 0.5, "training.frozen_statistics"),
    ],
)
def test_what_is_about_batch_norm_needs_a_network_that_has_some(
    batch_norm: str, frozen_statistics: float, told: str
) -> None:
    study = _study(architecture="squeezenet1_1", batch_norm=batch_norm)
    training = study.training.model_copy(update={"frozen_statistics": frozen_statistics})
    with pytest.raises(ModelError, match=f"{told}: squeezenet1_1 has no batch norm"):
        build_study_model(study.model_copy(update={"training": training}))


def _changed(before: Arrays, after: Arrays) -> set[str]:
    return {name for name in after if not np.array_equal(before[name], after[name])}


def test_frozen_statistics_rest_in_the_last_rounds_alone() -> None:
    data = grey_images(1, 8)
    large = ImageSet(data.images.repeat(4, axis=1).repeat(4, axis=2), data.labels)
    options = TrainingOptions(rounds=10, frozen_statistics=0.3, batch_size=8)
    model = build_study_model(_study())
    for number in (7, 8):
        before = get_parameters(model)
        train(model, large, options, number=number)
        changed = _changed(before, get_parameters(model))
        statistics = {name for name in changed if "running" in name}
        assert bool(statistics) is (number == 7)
        assert "conv1.1.weight" in changed  # the layer itself goes on learning


class _Normed(Softmax):
    """Batch norm before the softmax regression, with statistics that are no batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
            self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3])
            self.norm.running_var = torch.tensor([0.25, 1.0, 4.0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(self.norm(images))
        return logits


def _normed_gradient(labels: NDArray[np.int64], normed: NDArray[np.float64], w: Arrays) -> Arrays:
    """Of the mean cross-entropy of ``_Normed``, where ``normed`` is (images, 3) before γ and β."""
    features = normed * w["norm.weight"] + w["norm.bias"]
    logits = features @ w["last.weight"].T + w["last.bias"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    back = p @ w["last.weight"]
    return {
        "last.weight": p.T @ features / len(p),
        "last.bias": p.mean(axis=0),
        "norm.weight": (back * normed).mean(axis=0),
        "norm.bias": back.mean(axis=0),
    }


def test_frozen_statistics_train_the_function_that_is_tested() -> None:
    """Batch norm with the running mean and variance in it, whose γ and β are learnt."""
    options = WHOLE_BATCH.model_copy(update={"frozen_statistics": 1.0, "momentum": 0.0})
    model, data = _Normed(), grey_images(1, 30)
    w = as_float64(model)
    means = _pixels(data).mean(axis=(1, 2))
    deviation = np.sqrt(w["norm.running_var"] + model.norm.eps)
    normed = (means[:, None] - w["norm.running_mean"]) / deviation
    for rate in rates_of(options, 1):
        for name, array in _normed_gradient(data.labels, normed, w).items():
            w[name] = w[name] - rate * array
    train(model, data, options)
    assert_close(get_parameters(model), w)


def test_fedbn_averages_all_but_each_sites_batch_norm() -> None:
    """Over two rounds and two sites, whose scanners see light and dark the other way round.

    X. Li et al., "FedBN", ICLR 2021, algorithm 1.
    """
    data = (grey_images(1, 9), grey_images(2, 30, inverted=True))
    models = (_Normed(), _Normed())
    own = [as_float64(model) for model in models]
    shared = shared_names(own[0], ModelOptions(batch_norm="local"))
    assert shared == ["last.weight", "last.bias"]
    for number in (1, 2):
        for w, model, mine in zip(own, models, data, strict=True):
            pixels = _pixels(mine)
            normed = (pixels.mean(axis=(1, 2)) - pixels.mean()) / np.sqrt(pixels.var() + 1e-5)
            for rate in rates_of(WHOLE_BATCH, number):
                gradient = _normed_gradient(mine.labels, normed[:, None].repeat(3, axis=1), w)
                for name, array in gradient.items():
                    w[name] = w[name] - rate * array
            w["norm.running_mean"] = np.full(3, pixels.mean())
            w["norm.running_var"] = np.full(3, pixels.var(ddof=1))
            train(model, mine, WHOLE_BATCH, number=number)
            assert_close(get_parameters(model), w)
        for name in shared:
            reference = 0.25 * own[0][name] + 0.75 * own[1][name]
            parameters = [model.get_parameter(name).data for model in models]
            average = 0.25 * parameters[0] + 0.75 * parameters[1]
            for w, parameter in zip(own, parameters, strict=True):
                w[name] = reference
                parameter.copy_(average)
    assert not np.allclose(own[0]["norm.weight"], own[1]["norm.weight"], atol=0.01)


def _pixels(data: ImageSet) -> NDArray[np.float64]:
    """As the network gets them, (images, 8, 8)."""
    return np.asarray((data.images / 255 - 0.5) / 2)


def test_what_lies_before_train_from_stays_as_it_started() -> None:
    study = _study(train_from="stage4.1")
    model = build_study_model(study)
    before = get_parameters(model)
    shared = shared_names(before, study.model)
    assert shared[0].startswith("stage4.1.")
    assert shared == list(before)[list(before).index(shared[0]) :]
    assert local_names(before, study.model) == []
    data = grey_images(1, 8)
    large = ImageSet(data.images.repeat(4, axis=1).repeat(4, axis=2), data.labels)
    train(model, large, TrainingOptions(rounds=1, learning_rate=0.1))
    assert _changed(before, get_parameters(model)) == set(shared)


def test_a_layer_to_train_from_must_be_there_and_local_layers_behind_it() -> None:
    with pytest.raises(ModelError, match=r"model\.train_from: .* has no layer 'stage5'") as told:
        build_study_model(_study(train_from="stage5"))
    assert "stage4" in told.value.hint
    names = get_parameters(build_model(_NETWORK, classes=3, seed=1))
    options = ModelOptions(architecture=_NETWORK, train_from="stage4", local_layers=("conv1", "fc"))
    with pytest.raises(ModelError, match="'conv1' lies before train_from = 'stage4'"):
        shared_names(names, options)
    behind = options.model_copy(update={"local_layers": ("fc",)})
    assert local_names(names, behind) == ["fc.weight", "fc.bias"]
