from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.errors import ModelError, NotFiniteError
from ppfl.learning.files import load_model, parameters_sha256, save_model
from ppfl.learning.models import (
    batch_norm_layers,
    build_model,
    get_parameters,
    load_pretrained,
    network_input,
    set_parameters,
    shared_names,
)
from ppfl.settings import ModelOptions

SMALL = "shufflenet_v2_x0_5"
WEIGHTS = Path(__file__).parents[2] / ".." / "shared" / "weights" / "mobilenet_v2_imagenet_f16.npz"

Parameters = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return get_parameters(build_model(SMALL, classes=3, seed=1))


def small() -> nn.Module:
    return build_model(SMALL, classes=3, seed=2)


def test_the_seed_decides_the_parameters(parameters: Parameters) -> None:
    again = get_parameters(build_model(SMALL, classes=3, seed=1))
    other = get_parameters(small())
    assert parameters_sha256(again) == parameters_sha256(parameters)
    assert parameters_sha256(other) != parameters_sha256(parameters)


def test_building_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    small()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("mobilenet_v2", 64),
        ("googlenet", 64),
        ("inception_v3", 96),
        ("squeezenet1_1", 64),
        ("densenet121", 64),
        ("efficientnet_b0", 64),
        ("regnet_x_400mf", 64),
        ("swin_t", 64),
    ],
)
def test_every_family_gives_logits_alone(architecture: str, size: int) -> None:
    model = build_model(architecture, classes=3, seed=1)
    logits = model.train()(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 3)


@pytest.mark.parametrize("name", ["mobilnet_v2", "fcn_resnet50", "raft_large", "r3d_18"])
def test_an_unknown_architecture(name: str) -> None:
    with pytest.raises(ModelError, match=f"no classifier called '{name}'") as caught:
        build_model(name, classes=3, seed=1)
    assert caught.value.hint


def test_close_names_are_told() -> None:
    with pytest.raises(ModelError) as caught:
        build_model("mobilnet_v2", classes=3, seed=1)
    assert "mobilenet_v2" in caught.value.hint


def pretrained(architecture: str, classes: int = 5) -> dict[str, torch.Tensor]:
    return build_model(architecture, classes=classes, seed=9).state_dict()


def test_pretrained_weights_leave_the_last_layer(tmp_path: Path, parameters: Parameters) -> None:
    weights = pretrained(SMALL)
    torch.save(weights, tmp_path / "w.pth")
    model = build_model(SMALL, classes=3, seed=1)
    left = load_pretrained(model, tmp_path / "w.pth", architecture=SMALL)
    assert left == ["fc.weight", "fc.bias"]
    for name, array in get_parameters(model).items():
        expected = parameters[name] if name in left else weights[name].numpy()
        np.testing.assert_array_equal(array, expected)


def test_pretrained_weights_of_as_many_classes_fill_the_model(tmp_path: Path) -> None:
    torch.save(pretrained(SMALL, classes=3), tmp_path / "w.pth")
    assert load_pretrained(small(), tmp_path / "w.pth", architecture=SMALL) == []


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    weights = {name: t.half() for name, t in pretrained(SMALL).items() if t.is_floating_point()}
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub says bool
    model = small()
    load_pretrained(model, tmp_path / "w.npz", architecture=SMALL)
    got = model.state_dict()["conv1.0.weight"]
    assert got.dtype == torch.float32
    assert torch.equal(got, weights["conv1.0.weight"].float())


def test_a_convolution_as_last_layer_is_left(tmp_path: Path) -> None:
    torch.save(pretrained("squeezenet1_1"), tmp_path / "w.pth")
    model = build_model("squeezenet1_1", classes=3, seed=1)
    left = load_pretrained(model, tmp_path / "w.pth", architecture="squeezenet1_1")
    assert left == ["classifier.1.weight", "classifier.1.bias"]


def test_torchvisions_old_names_for_densenet_fit(tmp_path: Path) -> None:
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in pretrained("densenet121").items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    model = build_model("densenet121", classes=3, seed=1)
    left = load_pretrained(model, tmp_path / "w.pth", architecture="densenet121")
    assert left == ["classifier.weight", "classifier.bias"]


def test_auxiliary_outputs_in_the_file_are_passed_over(tmp_path: Path) -> None:
    weights = pretrained("googlenet") | {"aux1.fc1.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "w.pth")
    model = build_model("googlenet", classes=3, seed=1)
    left = load_pretrained(model, tmp_path / "w.pth", architecture="googlenet")
    assert left == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "tensor", "error", "message"),
    [
        ("conv1.0.weight", None, ModelError, r"conv1\.0\.weight: missing"),
        ("fc.bias", None, ModelError, r"fc\.bias: missing"),
        ("conv1.0.weight", torch.zeros(1), ModelError, r"conv1\.0\.weight: expected shape .*, got"),
        (
            "fc.weight",
            torch.zeros(5, 7),
            ModelError,
            r"fc\.weight: expected shape .*, got \(5, 7\)",
        ),
        ("head.weight", torch.zeros(1), ModelError, r"head\.weight: the model has no such"),
        ("conv1.1.bias", torch.full((24,), torch.nan), NotFiniteError, r"conv1\.1\.bias: NaN"),
    ],
)
def test_pretrained_weights_that_do_not_fit_change_nothing(
    tmp_path: Path,
    name: str,
    tensor: torch.Tensor | None,
    error: type[Exception],
    message: str,
) -> None:
    weights = pretrained(SMALL)
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    torch.save(weights, tmp_path / "w.pth")
    model = small()
    before = parameters_sha256(get_parameters(model))
    with pytest.raises(error, match=message):
        load_pretrained(model, tmp_path / "w.pth", architecture=SMALL)
    assert parameters_sha256(get_parameters(model)) == before


def test_a_download_that_fails_hints_at_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ModelError, match="cannot be downloaded") as caught:
        load_pretrained(small(), None, architecture=SMALL)
    assert "give a file" in caught.value.hint


def test_the_weights_at_hand_fit_mobilenet() -> None:
    if not WEIGHTS.exists():
        pytest.skip("needs the ImageNet weights in ../shared/weights")
    model = build_model("mobilenet_v2", classes=3, seed=1)
    left = load_pretrained(model, WEIGHTS, architecture="mobilenet_v2")
    assert left == ["classifier.1.weight", "classifier.1.bias"]


def test_parameters_follow_the_state_dict_without_counters(parameters: Parameters) -> None:
    state = small().state_dict()
    assert list(parameters) == [n for n in state if not n.endswith("num_batches_tracked")]
    assert any(name.endswith("running_var") for name in parameters)
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in parameters.values())


def test_parameters_are_copies() -> None:
    model = small()
    before = get_parameters(model)
    digest = parameters_sha256(before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert parameters_sha256(before) == digest


def test_the_memory_format_does_not_show() -> None:
    model = small()
    before = parameters_sha256(get_parameters(model))
    model.to(memory_format=torch.channels_last)
    assert parameters_sha256(get_parameters(model)) == before


def _local(names: Iterable[str], **options: Any) -> set[str]:
    names = list(names)
    shared = shared_names(names, ModelOptions.model_validate(options))
    assert shared == [name for name in names if name in shared]
    return set(names) - set(shared)


@pytest.mark.parametrize("architecture", ["mobilenet_v2", SMALL, "googlenet", "efficientnet_b0"])
def test_local_batch_norm_is_all_of_its_layers_and_nothing_else(architecture: str) -> None:
    model = build_model(architecture, classes=3, seed=1)
    names, layers = list(get_parameters(model)), tuple(batch_norm_layers(model))
    local = {name for name in names if name.startswith(layers)}
    assert len(local) == 4 * len(layers)
    assert _local(names, architecture=architecture, batch_norm="local") == local
    assert _local(names, architecture=architecture) == set()


def test_a_local_layer_keeps_all_its_tensors_and_none_of_a_longer_name() -> None:
    names = list(get_parameters(build_model("mobilenet_v2", classes=3, seed=1)))
    stem = {
        "features.0.0.weight",
        *(f"features.0.1.{tensor}" for tensor in ("weight", "bias", "running_mean", "running_var")),
    }
    assert _local(names, local_layers=["features.0"]) == stem
    first = _local(names, local_layers=["features.1"])
    assert first
    assert all(name.startswith("features.1.") for name in first)
    both = _local(names, local_layers=["features.0", "classifier"], batch_norm="local")
    assert both == stem | {"classifier.1.weight", "classifier.1.bias"} | _local(
        names, batch_norm="local"
    )


@pytest.mark.parametrize(
    ("architecture", "layer", "near"),
    [
        ("mobilenet_v2", "features.19", "features.1"),
        ("mobilenet_v2", "feature.0", "features.0"),
        ("mobilenet_v2", "features.0.", "features.0"),
        ("mobilenet_v2", "features.0.0.weight", "features.0.0"),
        ("mobilenet_v2", "classifier.0", "classifier.1"),  # dropout
        ("mobilenet_v2", "", "features, classifier"),
        ("squeezenet1_1", "stem", "features, classifier"),
        ("swin_t", "features.0.norm", "features.2.norm"),
    ],
)
def test_a_local_layer_that_the_network_has_not(architecture: str, layer: str, near: str) -> None:
    options = ModelOptions(architecture=architecture, local_layers=(layer,))
    names = get_parameters(build_model(architecture, classes=3, seed=1))
    with pytest.raises(ModelError, match=f"{architecture} has no layer '{layer}'") as told:
        shared_names(names, options)
    assert near in told.value.hint


@pytest.mark.parametrize(
    ("architecture", "batch_norm", "layers"),
    [
        ("mobilenet_v2", "average", ["features", "classifier"]),
        (SMALL, "local", ["conv1.0", "stage2", "stage3", "stage4", "conv5", "fc"]),
    ],
)
def test_something_must_be_left_to_average(
    architecture: str, batch_norm: str, layers: list[str]
) -> None:
    names = get_parameters(build_model(architecture, classes=3, seed=1))
    with pytest.raises(ModelError, match=r"every parameter of .* would stay at its site"):
        _local(names, architecture=architecture, batch_norm=batch_norm, local_layers=layers)


def test_whole_numbers_are_no_parameters() -> None:
    model = build_model("swin_t", classes=3, seed=1)
    names = get_parameters(model)
    assert not any(name.endswith("relative_position_index") for name in names)


def test_parameters_round_trip(tmp_path: Path) -> None:
    source, target = build_model(SMALL, classes=3, seed=1), small()
    with torch.no_grad():
        next(iter(batch_norm_layers(source).values())).running_mean.fill_(3)  # type: ignore[union-attr]
    sent = get_parameters(source)
    save_model(tmp_path / "m", sent, metadata={})
    set_parameters(target, load_model(tmp_path / "m")[0])
    assert parameters_sha256(get_parameters(target)) == parameters_sha256(sent)
    mean = next(iter(batch_norm_layers(target).values())).running_mean
    assert isinstance(mean, torch.Tensor)
    assert bool((mean == 3).all())


def test_read_only_arrays_can_be_set(parameters: Parameters) -> None:
    frozen = {name: array.copy() for name, array in parameters.items()}
    for array in frozen.values():
        array.flags.writeable = False
    set_parameters(small(), frozen)


def broken(parameters: Parameters, case: str) -> Parameters:
    first, second = list(parameters)[:2]
    match case:
        case "missing":
            return {n: a for n, a in parameters.items() if n != second}
        case "extra":
            return {**parameters, "more": np.zeros(1, np.float32)}
        case "order":
            return dict(reversed(parameters.items()))
        case "shape":
            return {**parameters, first: parameters[first].reshape(-1)}
        case "type":
            return {**parameters, first: parameters[first].astype(np.float64)}
        case _:
            return {**parameters, second: np.full_like(parameters[second], np.inf)}


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("missing", ModelError, r"expected tensor conv1\.1\.weight, got conv1\.1\.bias"),
        ("extra", ModelError, "expected tensor end, got more"),
        ("order", ModelError, r"expected tensor conv1\.0\.weight, got fc\.bias"),
        ("shape", ModelError, r"conv1\.0\.weight: expected float32 of shape \(24, 3, 3, 3\), got"),
        ("type", ModelError, r"conv1\.0\.weight: expected float32 .* got float64"),
        ("infinite", NotFiniteError, r"^conv1\.1\.weight: NaN or infinity$"),
    ],
)
def test_parameters_that_do_not_fit_change_nothing(
    parameters: Parameters, case: str, error: type[Exception], message: str
) -> None:
    model = small()
    before = parameters_sha256(get_parameters(model))
    with pytest.raises(error, match=message):
        set_parameters(model, broken(parameters, case))
    assert parameters_sha256(get_parameters(model)) == before


def test_the_digest_is_over_names_shapes_and_bytes() -> None:
    content = b'["w", [1, 2]]\n\x00\x00\x80\x3f\x00\x00\x00\xc0' + b'["b", []]\n\x00\x00\x00\x80'
    given = {"w": np.array([[1, -2]], np.float32), "b": np.array(-0.0, np.float32)}
    assert parameters_sha256(given) == hashlib.sha256(content).hexdigest()


def test_the_digest_sees_every_change() -> None:
    w, b = np.zeros((2, 3), np.float32), np.zeros(1, np.float32)
    variants: list[Parameters] = [
        {"w": w, "b": b},
        {"b": b, "w": w},
        {"w": w.T, "b": b},
        {"v": w, "b": b},
        {"w": -w, "b": b},
        {"w": w},
    ]
    assert len({parameters_sha256(variant) for variant in variants}) == len(variants)


def test_the_networks_input_is_normalised_grey_in_three_channels() -> None:
    pixels = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    result = network_input(pixels, (0.25, 0.5))
    assert result.shape == (2, 3, 4, 5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        torch.testing.assert_close(result[:, channel], (pixels[:, 0] - 0.25) / 0.5)
