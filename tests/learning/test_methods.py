"""The methods of docs/methods.md against their papers' equations, written out again in numpy.

Those that concern a network's layers are in test_layers.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.codec import Quantizer, extents_of, ranges_of, weight_units
from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.server_optimiser import ServerState
from ppfl.settings import TrainingOptions
from sites.control_variates import ControlVariates
from tests.learning.reference import (
    WHOLE_BATCH,
    Softmax,
    as_float64,
    assert_close,
    gradient_of,
    grey_images,
    rates_of,
    train,
)


@pytest.mark.parametrize(("mu", "momentum"), [(0.0, 0.9), (0.7, 0.0), (0.7, 0.5)])
def test_fedprox_and_momentum_take_their_papers_steps(mu: float, momentum: float) -> None:
    options = WHOLE_BATCH.model_copy(update={"proximal_mu": mu, "momentum": momentum})
    model, data = Softmax(), grey_images(1, 30)
    start, w = as_float64(model), as_float64(model)
    velocity = {name: np.zeros_like(array) for name, array in w.items()}
    for rate in rates_of(options, 1):
        gradient = gradient_of(data, w)
        for name in w:
            pull = mu * (w[name] - start[name])  # of μ/2 · ‖w − w_t‖² [Li 2020, eq. 2]
            velocity[name] = momentum * velocity[name] + gradient[name] + pull
            w[name] = w[name] - rate * velocity[name]
    train(model, data, options)
    assert_close(get_parameters(model), w)


def test_the_average_after_one_local_step_is_a_step_along_all_sites_mean_gradient() -> None:
    """FedSGD [McMahan 2017, §2]: however images are dealt, here one class to a site."""
    options = WHOLE_BATCH.model_copy(update={"local_epochs": 1, "local_steps": 1})
    every, w = grey_images(1, 30), as_float64(Softmax())
    average = {name: np.zeros_like(array) for name, array in w.items()}
    for label in range(3):
        model, mine = Softmax(), every.labels == label
        train(model, ImageSet(every.images[mine], every.labels[mine]), options)
        for name, array in get_parameters(model).items():
            average[name] += array * mine.mean()
    (rate,) = rates_of(options, 1)
    gradient = gradient_of(every, w)
    assert_close(average, {name: array - rate * gradient[name] for name, array in w.items()})


def test_the_pull_reaches_adamw_too() -> None:
    data, moved = grey_images(1, 30), []
    for mu in (0.0, 100.0):
        model = Softmax()
        start = get_parameters(model)
        options = TrainingOptions(rounds=1, local_epochs=30, learning_rate=0.1, proximal_mu=mu)
        train(model, data, options)
        after = get_parameters(model)
        moved.append(sum(float(np.square(after[n] - start[n]).sum()) for n in start))
    assert moved[1] < moved[0] / 10


def test_scaffold_is_algorithm_1_over_two_rounds_and_two_sites() -> None:
    options = WHOLE_BATCH.model_copy(update={"optimiser": "scaffold"})
    shares, data = (0.25, 0.75), (grey_images(1, 9), grey_images(2, 30, inverted=True))
    model = Softmax()
    # the reference: x and c of the federation, c_i of each site
    x = as_float64(model)
    c = {name: np.zeros_like(array) for name, array in x.items()}
    own = [dict(c), dict(c)]
    # ours
    opened = get_parameters(model)
    zeros = {f"control.{name}": np.zeros_like(array) for name, array in opened.items()}
    ours = [ControlVariates(zeros, zeros), ControlVariates(zeros, zeros)]
    for number in (1, 2):
        ends, controls, found, found_controls = [], [], [], []
        rates = rates_of(options, number)
        for i in (0, 1):
            y = dict(x)
            for rate in rates:
                g = gradient_of(data[i], y)
                y = {name: y[name] - rate * (g[name] - own[i][name] + c[name]) for name in y}
            moved = {name: (x[name] - y[name]) / math.fsum(rates) for name in x}
            controls.append({name: own[i][name] - c[name] + moved[name] for name in x})
            ends.append(y)

            for name, array in opened.items():
                model.get_parameter(name).data.copy_(torch.tensor(array))
            result = train(
                model, data[i], options, number=number, corrections=ours[i].corrections()
            )
            trained = get_parameters(model)
            found_controls.append(
                ours[i].after(opened, trained, rates=result.rates, weight=shares[i])
            )
            found.append(trained)
        x = {name: sum(p * y[name] for p, y in zip(shares, ends, strict=True)) for name in x}
        c = {name: sum(p * k[name] for p, k in zip(shares, controls, strict=True)) for name in x}
        own = controls
        opened = {n: np.float32(0.25 * found[0][n] + 0.75 * found[1][n]) for n in opened}
        mean = {
            n: np.float32(0.25 * found_controls[0][n] + 0.75 * found_controls[1][n]) for n in zeros
        }
        ours = [ControlVariates(mean, kept) for kept in found_controls]
        assert_close(opened, x)
        assert_close(mean, {f"control.{name}": array for name, array in c.items()})
    assert any(np.abs(array).max() > 0.01 for array in c.values())


def test_scaffold_passes_over_a_networks_constants() -> None:
    """Swin V2 has tables of coordinates, which are no parameters and are in its state."""
    options = WHOLE_BATCH.model_copy(update={"optimiser": "scaffold"})
    model = Softmax()
    model.register_buffer("coordinates", torch.ones(2))
    corrections = {name: np.ones_like(array) for name, array in get_parameters(model).items()}
    train(model, grey_images(1, 9), options, corrections=corrections)
    assert model.get_buffer("coordinates").tolist() == [1, 1]


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize(
    ("weighted", "weights"),
    [
        (False, (1, 1, 1)),
        # 1, 4 and 20 times, where the last class has no image, and on average 1 an image
        (True, (0.625, 2.5, 12.5)),
    ],
)
def test_logit_adjustment_adds_the_classes_shares_to_their_logits(
    tau: float, weighted: bool, weights: tuple[float, ...]
) -> None:
    """Menon et al. 2021, eq. 10; a class that the site lacks counts as one image."""
    update = {"logit_adjustment": tau, "class_weighting": weighted}
    options = WHOLE_BATCH.model_copy(update=update)
    every = grey_images(1, 120)
    mine = np.concatenate(
        [np.flatnonzero(every.labels == 0)[:40], [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]]
    )
    data = ImageSet(every.images[mine], every.labels[mine])
    counted = np.array([40, 10, 1]) * weights
    prior = tau * np.log(counted / counted.sum())
    model, w = Softmax(), as_float64(Softmax())
    for rate in rates_of(options, 1):
        gradient = gradient_of(data, w, prior=prior, weights=weights)
        w = {name: w[name] - rate * gradient[name] for name in w}
    train(model, data, options)
    assert_close(get_parameters(model), w)


@pytest.mark.parametrize("weight", [1.0, 0.75, 1 / 3, 10 / 3215, 1e-7, 1e-12])
@pytest.mark.parametrize("shape", [(2, 2), (4,)])
def test_a_control_variate_stays_within_what_an_update_has_room_for(
    weight: float, shape: tuple[int, ...]
) -> None:
    c = {"control.w": np.array([0.0, 0.0, 0.5, -0.25], np.float32).reshape(shape)}
    own = ControlVariates(c, {"control.w": np.zeros(shape, np.float32)})
    start = {"w": np.zeros(shape, np.float32)}
    far = np.float32(1e12)
    trained = {"w": np.array([-far, 0.01, -0.5, far], np.float32).reshape(shape)}
    after = own.after(start, trained, rates=1.0, weight=weight)["control.w"]
    room = extents_of(ranges_of(c)) / (weight_units(weight) / 2**32)
    assert room[0] * weight_units(weight) / 2**32 == pytest.approx(
        0.25 if len(room) == 2 else 1.25, rel=0.125
    )
    np.testing.assert_allclose(after.ravel(), [room[0], -0.01, 0.0, -room[-1]], rtol=1e-6)
    quantizer = Quantizer({"control.w": shape}, ranges_of(c), 14)
    assert quantizer.quantize({"control.w": after}, weight=weight_units(weight)).clipped == 0


def test_a_small_sites_control_variate_is_not_cut_off() -> None:
    # ten images of 3,215: as large as one was in the scenario dirichlet-0.1
    zeros = {"control.w": np.zeros((1, 2), np.float32)}
    start, trained = ({"w": np.array([[x, -x]], np.float32)} for x in (0.0, -3.0))
    after = ControlVariates(zeros, zeros).after(start, trained, rates=1.0, weight=10 / 3215)
    np.testing.assert_array_equal(after["control.w"], [[3, -3]])


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
    start = get_parameters(Softmax())
    average = {name: np.float32(array * 1.25) for name, array in start.items()}
    after = ServerState.at_start(start, options).step(average, options)
    assert all(np.array_equal(after.model[name], average[name]) for name in average)
