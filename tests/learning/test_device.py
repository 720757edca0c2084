from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ppfl.learning.augment import augment
from ppfl.learning.device import choose_device, seeded
from ppfl.learning.images import ImageSet
from ppfl.learning.models import as_tensor, build_model, network_input
from ppfl.learning.training import train_locally
from ppfl.settings import TrainingOptions

_META = torch.device("meta")  # computes nothing, but refuses a tensor of another device


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What choosing a GPU changes in torch and in the environment is put back afterwards."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_is_used_if_there_is_one_and_told_to_be_deterministic(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device().type == ("cuda" if gpu else "cpu")
    assert torch.are_deterministic_algorithms_enabled() is gpu
    assert torch.backends.cudnn.benchmark is not gpu
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is gpu


def test_dropouts_numbers_begin_anew_and_the_others_go_on() -> None:
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(cpu, 7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_stays_on_its_device() -> None:
    pixels = as_tensor(np.zeros((2, 8, 8), np.uint8), _META)
    changed = augment(pixels, torch.Generator())
    assert changed.device == network_input(changed, (0.5, 0.5)).device == _META


def test_a_step_mixes_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and loss run on the device; reading the loss is the first thing it cannot do."""
    adamw = torch.optim.AdamW  # which torch fuses for no such tensors
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused: adamw(groups))
    model = build_model("squeezenet1_1", classes=2, seed=1)
    data = ImageSet(np.zeros((4, 32, 32), np.uint8), np.arange(4) % 2)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        train_locally(
            model,
            data,
            TrainingOptions(rounds=1),
            classes=2,
            normalisation=(0.5, 0.5),
            round_number=1,
            seed=1,
            device=_META,
        )
    assert {parameter.device for parameter in model.parameters()} == {_META}
