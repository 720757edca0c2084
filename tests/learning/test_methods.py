"""The methods of docs/methods.md against their papers' equations, written out again in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.codec import Quantizer, extents_of, ranges_of
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
from ppfl.learning.server_optimiser import ServerState
from ppfl.learning.training import TrainingResult, learning_rate_at, train_locally
from ppfl.settings import ModelOptions, Study, TrainingOptions
from sites.control_variates import ControlVariates

Arrays = dict[str, NDArray[Any]]

_NETWORK = "shufflenet_v2_x0_5"
_WHOLE_BATCH = TrainingOptions(
    rounds=2,
    local_epochs=4,
    batch_size=64,
    optimiser="sgd",
    learning_rate=0.5,
    weight_decay=0.0,
    class_weighting=False,
    augmentation=False,
)


class _Softmax(nn.Module):
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


def _images(seed: int, count: int, *, inverted: bool = False) -> ImageSet:
    """Grey squares whose brightness, or darkness, is their class; as many of each class."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).integers(0, 60, (count, 8, 8))
    grey = (labels[:, None, None] * 90 + noise).astype(np.uint8)
    return ImageSet(255 - grey if inverted else grey, labels)


def _train(
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


def _gradient(data: ImageSet, w: Arrays) -> Arrays:
    """Of the mean cross-entropy of softmax regression over all images."""
    means = (data.images / 255).mean(axis=(1, 2)) / 2 - 0.25
    features = np.repeat(means[:, None], 3, axis=1)
    logits = features @ w["last.weight"].T + w["last.bias"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(p)), data.labels] -= 1
    return {"last.weight": p.T @ features / len(p), "last.bias": p.mean(axis=0)}


def _rates(options: TrainingOptions, number: int) -> list[float]:
    k = options.local_epochs  # steps, because a batch holds all images
    shares = [(number - 1 + (step + 0.5) / k) / options.rounds for step in range(k)]
    return [learning_rate_at(share, options) for share in shares]


def _as_float64(model: nn.Module) -> Arrays:
    return {name: array.astype(np.float64) for name, array in get_parameters(model).items()}


def _assert_close(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mu", "momentum"), [(0.0, 0.9), (0.7, 0.0), (0.7, 0.5)])
def test_fedprox_and_momentum_take_their_papers_steps(mu: float, momentum: float) -> None:
    options = _WHOLE_BATCH.model_copy(update={"proximal_mu": mu, "momentum": momentum})
    model, data = _Softmax(), _images(1, 30)
    start, w = _as_float64(model), _as_float64(model)
    velocity = {name: np.zeros_like(array) for name, array in w.items()}
    for rate in _rates(options, 1):
        gradient = _gradient(data, w)
        for name in w:
            pull = mu * (w[name] - start[name])  # of μ/2 · ‖w − w_t‖² [Li 2020, eq. 2]
            velocity[name] = momentum * velocity[name] + gradient[name] + pull
            w[name] = w[name] - rate * velocity[name]
    _train(model, data, options)
    _assert_close(get_parameters(model), w)


def test_the_average_after_one_local_step_is_a_step_along_all_sites_mean_gradient() -> None:
    """FedSGD [McMahan 2017, §2]: however images are dealt, here one class to a site."""
    options = _WHOLE_BATCH.model_copy(update={"local_epochs": 1, "local_steps": 1})
    every, w = _images(1, 30), _as_float64(_Softmax())
    average = {name: np.zeros_like(array) for name, array in w.items()}
    for label in range(3):
        model, mine = _Softmax(), every.labels == label
        _train(model, ImageSet(every.images[mine], every.labels[mine]), options)
        for name, array in get_parameters(model).items():
            average[name] += array * mine.mean()
    (rate,) = _rates(options, 1)
    gradient = _gradient(every, w)
    _assert_close(average, {name: array - rate * gradient[name] for name, array in w.items()})


def test_the_pull_reaches_adamw_too() -> None:
    data, moved = _images(1, 30), []
    for mu in (0.0, 100.0):
        model = _Softmax()
        start = get_parameters(model)
        options = TrainingOptions(rounds=1, local_epochs=30, learning_rate=0.1, proximal_mu=mu)
        _train(model, data, options)
        after = get_parameters(model)
        moved.append(sum(float(np.square(after[n] - start[n]).sum()) for n in start))
    assert moved[1] < moved[0] / 10


def test_scaffold_is_algorithm_1_over_two_rounds_and_two_sites() -> None:
    options = _WHOLE_BATCH.model_copy(update={"optimiser": "scaffold"})
    shares, data = (0.25, 0.75), (_images(1, 9), _images(2, 30, inverted=True))
    model = _Softmax()
    # the reference: x and c of the federation, c_i of each site
    x = _as_float64(model)
    c = {name: np.zeros_like(array) for name, array in x.items()}
    own = [dict(c), dict(c)]
    # ours
    opened = get_parameters(model)
    zeros = {f"control.{name}": np.zeros_like(array) for name, array in opened.items()}
    ours = [ControlVariates(zeros, zeros), ControlVariates(zeros, zeros)]
    for number in (1, 2):
        ends, controls, found, found_controls = [], [], [], []
        rates = _rates(options, number)
        for i in (0, 1):
            y = dict(x)
            for rate in rates:
                g = _gradient(data[i], y)
                y = {name: y[name] - rate * (g[name] - own[i][name] + c[name]) for name in y}
            moved = {name: (x[name] - y[name]) / math.fsum(rates) for name in x}
            controls.append({name: own[i][name] - c[name] + moved[name] for name in x})
            ends.append(y)

            for name, array in opened.items():
                model.get_parameter(name).data.copy_(torch.tensor(array))
            result = _train(
                model, data[i], options, number=number, corrections=ours[i].corrections()
            )
            trained = get_parameters(model)
            found_controls.append(ours[i].after(opened, trained, rates=result.rates))
            found.append(trained)
        x = {name: sum(p * y[name] for p, y in zip(shares, ends, strict=True)) for name in x}
        c = {name: sum(p * k[name] for p, k in zip(shares, controls, strict=True)) for name in x}
        own = controls
        opened = {n: np.float32(0.25 * found[0][n] + 0.75 * found[1][n]) for n in opened}
        mean = {
            n: np.float32(0.25 * found_controls[0][n] + 0.75 * found_controls[1][n]) for n in zeros
        }
        ours = [ControlVariates(mean, kept) for kept in found_controls]
        _assert_close(opened, x)
        _assert_close(mean, {f"control.{name}": array for name, array in c.items()})
    assert any(np.abs(array).max() > 0.01 for array in c.values())


def test_a_control_variate_stays_within_what_an_update_has_room_for() -> None:
    c = {"control.w": np.array([[0.0, 0.0], [0.5, -0.25]], np.float32)}
    own = ControlVariates(c, {"control.w": np.zeros((2, 2), np.float32)})
    start = {"w": np.zeros((2, 2), np.float32)}
    trained = {"w": np.array([[-100, 0.01], [-0.5, 100]], np.float32)}
    after = own.after(start, trained, rates=1.0)["control.w"]
    room = extents_of(ranges_of(c))
    np.testing.assert_allclose(room, [0.1, 1.1], rtol=0.125)
    np.testing.assert_allclose(after, [[room[0], -0.01], [0.0, -room[1]]], atol=1e-8)
    quantizer = Quantizer({"control.w": (2, 2)}, ranges_of(c), 14)
    assert quantizer.quantize({"control.w": after}, weight=2**32).clipped == 0


@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_server_optimisers_take_their_papers_steps(kind: str, rate: float) -> None:
    options = TrainingOptions.model_validate(
        {
            "server_optimiser": kind,
            "server_learning_rate": rate,
            "server_momentum": 0.8,
            "server_beta2": 0.95,
            "server_tau": 0.01,
        }
    )
    rng = np.random.default_rng(5)
    start: dict[str, Any] = {
        "a.weight": rng.normal(size=(4, 3)).astype(np.float32),
        "n.running_var": np.ones(4, np.float32),
    }
    state = ServerState.at_start(start, options)
    x = start["a.weight"].astype(np.float64)
    m, v = np.zeros_like(x), np.full_like(x, 0.01**2)
    eta = rate or (1.0 if kind == "fedavgm" else 0.01)
    for _ in range(4):
        updates = [x + rng.normal(scale=0.1, size=x.shape) for _ in range(2)]  # of two sites
        average: dict[str, Any] = {
            "a.weight": np.float32(0.25 * updates[0] + 0.75 * updates[1]),
            "n.running_var": rng.random(4).astype(np.float32),
        }
        delta = average["a.weight"] - x
        if kind == "fedavgm":
            m = 0.8 * m + delta
            x = x + eta * m
        else:
            m = 0.8 * m + 0.2 * delta
            if kind == "fedadam":
                v = 0.95 * v + 0.05 * delta**2
            else:
                v = v - 0.05 * delta**2 * np.sign(v - delta**2)
            x = x + eta * m / (np.sqrt(v) + 0.01)
        state = state.step(average, options)
        assert list(state.model) == list(start)
        np.testing.assert_allclose(state.model["a.weight"], x, rtol=1e-5, atol=1e-6)
        assert np.array_equal(state.model["n.running_var"], average["n.running_var"])
    assert list(state.squares) == ([] if kind == "fedavgm" else ["a.weight"])


def test_momentum_of_nothing_and_rate_one_is_the_average() -> None:
    options = TrainingOptions(server_optimiser="fedavgm", server_momentum=0.0)
    start = get_parameters(_Softmax())
    average = {name: np.float32(array * 1.25) for name, array in start.items()}
    after = ServerState.at_start(start, options).step(average, options)
    assert all(np.array_equal(after.model[name], average[name]) for name in average)


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


def _changed(before: Arrays, after: Arrays) -> set[str]:
    return {name for name in after if not np.array_equal(before[name], after[name])}


def test_frozen_statistics_rest_in_the_last_rounds_alone() -> None:
    data = _images(1, 8)
    large = ImageSet(data.images.repeat(4, axis=1).repeat(4, axis=2), data.labels)
    options = TrainingOptions(rounds=10, frozen_statistics=0.3, batch_size=8)
    model = build_study_model(_study())
    for number in (7, 8):
        before = get_parameters(model)
        _train(model, large, options, number=number)
        changed = _changed(before, get_parameters(model))
        statistics = {name for name in changed if "running" in name}
        assert bool(statistics) is (number == 7)
        assert "conv1.1.weight" in changed  # the layer itself goes on learning


class _Normed(_Softmax):
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


def test_frozen_statistics_train_the_function_that_is_tested() -> None:
    """Batch norm with the running mean and variance in it, whose γ and β are learnt."""
    options = _WHOLE_BATCH.model_copy(update={"frozen_statistics": 1.0, "momentum": 0.0})
    model, data = _Normed(), _images(1, 30)
    w = _as_float64(model)
    means = (data.images / 255).mean(axis=(1, 2)) / 2 - 0.25
    deviation = np.sqrt(w["norm.running_var"] + model.norm.eps)
    normed = (means[:, None] - w["norm.running_mean"]) / deviation
    for rate in _rates(options, 1):
        features = normed * w["norm.weight"] + w["norm.bias"]
        logits = features @ w["last.weight"].T + w["last.bias"]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p[np.arange(len(p)), data.labels] -= 1
        back = p @ w["last.weight"]
        gradient = {
            "norm.weight": (back * normed).mean(axis=0),
            "norm.bias": back.mean(axis=0),
            "last.weight": p.T @ features / len(p),
            "last.bias": p.mean(axis=0),
        }
        for name, array in gradient.items():
            w[name] = w[name] - rate * array
    _train(model, data, options)
    _assert_close(get_parameters(model), w)


def test_what_lies_before_train_from_stays_as_it_started() -> None:
    study = _study(train_from="stage4.1")
    model = build_study_model(study)
    before = get_parameters(model)
    shared = shared_names(before, study.model)
    assert shared[0].startswith("stage4.1.")
    assert shared == list(before)[list(before).index(shared[0]) :]
    assert local_names(before, study.model) == []
    data = _images(1, 8)
    large = ImageSet(data.images.repeat(4, axis=1).repeat(4, axis=2), data.labels)
    _train(model, large, TrainingOptions(rounds=1, learning_rate=0.1))
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
