from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppfl.errors import DataError, NotFiniteError, RoundError
from ppfl.learning import training
from ppfl.learning.files import parameters_sha256
from ppfl.learning.images import ImageSet
from ppfl.learning.models import batch_norm_layers, build_model, get_parameters
from ppfl.learning.training import TrainingResult, learning_rate_at, train_locally
from ppfl.settings import TrainingOptions


class Tiny(nn.Module):
    """Batch norm and dropout as in the real ones; it keeps what it is shown."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, classes))
        self.seen: list[torch.Tensor] = []  # in training steps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.seen.append(images.detach().clone())
        logits: torch.Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


def tiny() -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Tiny()


def images(count: int, *, size: int = 16) -> ImageSet:
    """Grey squares whose brightness is their class."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, count)
    noise = rng.integers(0, 60, (count, size, size))
    return ImageSet((labels[:, None, None] * 90 + noise).astype(np.uint8), labels)


def train(
    model: nn.Module, data: ImageSet, options: TrainingOptions, *, round_number: int = 1
) -> TrainingResult:
    return train_locally(
        model,
        data,
        options,
        classes=3,
        normalisation=(0.5, 0.25),
        round_number=round_number,
        seed=11,
    )


def digest(model: nn.Module) -> str:
    return parameters_sha256(get_parameters(model))


PLAIN = TrainingOptions(rounds=1, augmentation=False, warmup=0.0)


def test_training_learns() -> None:
    options = TrainingOptions(rounds=1, local_epochs=20, learning_rate=0.03, batch_size=16)
    first = train(tiny(), images(96), PLAIN)
    last = train(tiny(), images(96), options)
    assert last.loss < first.loss / 2
    assert (last.steps, last.images) == (120, 96)
    assert last.seconds > 0


def test_two_runs_agree_bit_for_bit() -> None:
    options = TrainingOptions(rounds=2, local_epochs=2, batch_size=8)
    data = images(20, size=64)
    digests = []
    for disturbed in (False, True):
        model = build_model("mobilenet_v2", classes=3, seed=1)
        if disturbed:
            torch.rand(5)
        result = train(model, data, options, round_number=2)
        digests.append((digest(model), result.loss))
    assert digests[0] == digests[1]


def test_bfloat16_is_near_float32_and_the_same_twice() -> None:
    models = []
    for precision in ("float32", "bfloat16", "bfloat16"):
        models.append(tiny())
        options = PLAIN.model_copy(update={"precision": precision, "local_epochs": 3})
        result = train(models[-1], images(40), options)
        assert math.isfinite(result.loss)
    assert digest(models[1]) == digest(models[2]) != digest(models[0])
    found, lower = (get_parameters(model) for model in models[:2])
    for name, parameter in found.items():
        assert lower[name].dtype == np.float32
        np.testing.assert_allclose(lower[name], parameter, atol=0.02)


def test_round_and_seed_decide_the_order() -> None:
    options = TrainingOptions(rounds=2)
    first, second = tiny(), tiny()
    train(first, images(16), options, round_number=1)
    train(second, images(16), options, round_number=2)
    assert not torch.equal(first.seen[0], second.seen[0])


def test_the_global_random_state_is_left() -> None:
    before = torch.get_rng_state()
    train(tiny(), images(8), TrainingOptions(rounds=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (2, [2]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5]), (11, [4, 4, 3])],
)
def test_no_batch_of_one_image_unless_there_is_but_one(count: int, sizes: list[int]) -> None:
    model = tiny()
    result = train(model, images(count), TrainingOptions(rounds=1, local_epochs=2, batch_size=4))
    assert [len(batch) for batch in model.seen] == sizes * 2
    assert result.steps == len(sizes) * 2
    assert math.isfinite(result.loss)


@pytest.mark.parametrize(
    ("steps", "sizes"), [(1, [4]), (2, [4, 4]), (3, [4, 4, 3]), (5, [4, 4, 3, 4, 4])]
)
def test_local_steps_are_as_many_batches_from_the_beginning_of_an_epoch(
    steps: int, sizes: list[int]
) -> None:
    model, whole = tiny(), tiny()
    options = PLAIN.model_copy(update={"batch_size": 4, "local_steps": steps})
    result = train(model, images(11), options)
    assert [len(batch) for batch in model.seen] == sizes
    assert result.steps == steps
    train(whole, images(11), PLAIN.model_copy(update={"batch_size": 4, "local_epochs": 2}))
    assert all(map(torch.equal, model.seen, whole.seen))
    assert math.isfinite(result.loss)


def test_each_epoch_shows_each_image_once() -> None:
    model, data = tiny(), images(9)
    train(model, data, PLAIN.model_copy(update={"local_epochs": 2, "batch_size": 4}))
    expected = sorted(((data.images / 255 - 0.5) / 0.25).astype(np.float32).sum((1, 2)))
    epochs = [torch.cat(model.seen[i : i + 2])[:, 0].sum((1, 2)) for i in (0, 2)]
    for epoch in epochs:
        np.testing.assert_allclose(sorted(epoch.tolist()), expected, rtol=1e-4, atol=1e-3)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_statistics_are_those_of_the_plain_images_under_the_final_parameters(
    precision: str,
) -> None:
    model, data = tiny(), images(50)
    changes = {"augmentation": True, "local_epochs": 3, "precision": precision}
    train(model, data, PLAIN.model_copy(update=changes))
    pixels = torch.from_numpy(((data.images / 255 - 0.5) / 0.25).astype(np.float32))
    with torch.no_grad():
        maps = model.body[0](pixels[:, None].expand(-1, 3, -1, -1))
    norm = model.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.var(dim=(0, 2, 3)))
    assert model.training


def test_a_single_image_trains_and_leaves_the_statistics_of_batch_norm() -> None:
    # At 32 pixels MobileNetV2 ends in maps of one pixel, where batch norm refuses a single image.
    model = build_model("mobilenet_v2", classes=3, seed=1)
    before = get_parameters(model)
    train(model, images(1, size=32), PLAIN)
    after = get_parameters(model)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert "classifier.1.weight" in changed
    assert not any("running" in name for name in changed)
    assert all(not layer.training for layer in batch_norm_layers(model).values())


def test_augmentation_changes_the_images_only_if_asked() -> None:
    plain, augmented = tiny(), tiny()
    train(plain, images(8), PLAIN)
    train(augmented, images(8), PLAIN.model_copy(update={"augmentation": True}))
    assert not torch.equal(plain.seen[0], augmented.seen[0])


def test_mapped_read_only_images_can_be_trained_on(tmp_path: Path) -> None:
    data = images(6)
    np.save(tmp_path / "x.npy", data.images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data.labels.flags.writeable = False
    model, other = tiny(), tiny()
    train(model, ImageSet(mapped, data.labels), PLAIN)
    train(other, data, PLAIN)
    assert digest(model) == digest(other)


def test_progress_is_told_after_each_step() -> None:
    told: list[tuple[int, int]] = []
    train_locally(
        tiny(),
        images(10),
        TrainingOptions(rounds=1, batch_size=4, local_epochs=2),
        classes=3,
        normalisation=(0.5, 0.25),
        round_number=1,
        seed=1,
        progress=lambda done, steps: told.append((done, steps)),
    )
    assert told == [(i, 6) for i in range(1, 7)]


def test_the_rate_follows_one_schedule_over_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def spy(progress: float, options: TrainingOptions) -> float:
        asked.append(progress)
        return 0.0

    monkeypatch.setattr(training, "learning_rate_at", spy)
    model = tiny()
    before = digest_without_statistics(model)
    options = TrainingOptions(rounds=3, batch_size=4)
    for round_number in (1, 2, 3):
        train(model, images(8), options, round_number=round_number)
    np.testing.assert_allclose(asked, (np.arange(6) + 0.5) / 6)
    assert digest_without_statistics(model) == before  # the rate asked for is the rate taken


def digest_without_statistics(model: nn.Module) -> str:
    parameters = get_parameters(model)
    return parameters_sha256({n: a for n, a in parameters.items() if "running" not in n})


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup: float) -> None:
    options = TrainingOptions(warmup=warmup, learning_rate=0.5)
    assert learning_rate_at(warmup, options) == pytest.approx(0.5)
    assert learning_rate_at(1, options) == pytest.approx(0, abs=1e-12)
    assert learning_rate_at((1 + warmup) / 2, options) == pytest.approx(0.25)
    assert learning_rate_at(warmup / 2, options) == pytest.approx(0.25 if warmup else 0.5)


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_the_rate_is_never_out_of_bounds(progress: float, warmup: float) -> None:
    options = TrainingOptions(warmup=warmup, learning_rate=0.5)
    assert 0 <= learning_rate_at(progress, options) <= 0.5


@pytest.mark.parametrize("counts", [[50, 50], [90, 10], [1000, 1], [30, 0]])
def test_rare_classes_count_as_much_as_common_ones(counts: list[int]) -> None:
    """Seen from outside: with a zero model the loss is log 2, whatever the weights; the gradient
    of the last bias is the imbalance that is left."""
    labels = np.repeat(np.arange(2), counts)
    data = ImageSet(np.zeros((len(labels), 4, 4), np.uint8), labels)
    model = Constant()
    options = PLAIN.model_copy(update={"batch_size": 4096})
    result = train_locally(
        model, data, options, classes=2, normalisation=(0.0, 1.0), round_number=1, seed=1
    )
    assert result.loss == pytest.approx(math.log(2), rel=1e-5)
    assert model.bias.grad is not None
    share = counts[1] / (counts[1] + max(counts[1], counts[0] / 20))
    assert 0.5 - model.bias.grad[1].item() == pytest.approx(share, abs=1e-5)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(images), 2)


def test_without_weighting_every_image_counts_the_same() -> None:
    labels = np.repeat([0, 1], [90, 10])
    data = ImageSet(np.zeros((100, 4, 4), np.uint8), labels)
    model = Constant()
    options = PLAIN.model_copy(update={"batch_size": 128, "class_weighting": False})
    train_locally(model, data, options, classes=2, normalisation=(0.0, 1.0), round_number=1, seed=1)
    assert model.bias.grad is not None
    assert 0.5 - model.bias.grad[1].item() == pytest.approx(0.1, abs=1e-5)


def test_labels_are_smoothed() -> None:
    data = ImageSet(np.zeros((10, 4, 4), np.uint8), np.zeros(10, np.int64))
    model = Constant()
    options = PLAIN.model_copy(update={"label_smoothing": 0.2})
    train_locally(model, data, options, classes=2, normalisation=(0.0, 1.0), round_number=1, seed=1)
    assert model.bias.grad is not None
    assert 0.5 - model.bias.grad[1].item() == pytest.approx(0.1, abs=1e-5)


def test_only_matrices_and_kernels_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, object]] = []
    real = torch.optim.AdamW

    def spy(parameters: list[dict[str, object]], *, fused: bool) -> torch.optim.Optimizer:
        groups.extend(parameters)
        return real(parameters, fused=fused)

    monkeypatch.setattr(torch.optim, "AdamW", spy)
    model = tiny()
    train(model, images(4), PLAIN.model_copy(update={"weight_decay": 0.3}))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"]
        for group in groups
        for p in group["params"]  # type: ignore[attr-defined]
    }
    assert decays == {
        "body.0.weight": 0.3,
        "head.1.weight": 0.3,
        "body.0.bias": 0.0,
        "body.1.weight": 0.0,
        "body.1.bias": 0.0,
        "head.1.bias": 0.0,
    }


def test_no_images() -> None:
    with pytest.raises(DataError, match="no images to train on"):
        train(tiny(), images(0), PLAIN)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class(label: int) -> None:
    data = images(4)
    data.labels[2] = label
    with pytest.raises(DataError, match=r"outside \[0, 3\)"):
        train(tiny(), data, PLAIN)


@pytest.mark.parametrize("round_number", [0, 2])
def test_a_round_that_the_study_has_not(round_number: int) -> None:
    with pytest.raises(RoundError, match=f"round {round_number} of a study that has 1"):
        train(tiny(), images(4), PLAIN, round_number=round_number)


def test_a_loss_that_is_not_finite_ends_the_round_at_once() -> None:
    model = tiny()
    with torch.no_grad():
        model.head[1].weight.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(
        NotFiniteError, match=r"round 1: the loss became NaN .* in step 1"
    ) as caught:
        train(model, images(8), PLAIN.model_copy(update={"batch_size": 2}))
    assert len(model.seen) == 1
    assert caught.value.hint


def test_a_deadline_that_passes_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    model = tiny()
    with pytest.raises(RoundError, match=r"round 1: 25 s were over after 2 of 4") as caught:
        train_locally(
            model,
            images(8),
            PLAIN.model_copy(update={"batch_size": 2}),
            classes=3,
            normalisation=(0.5, 0.25),
            round_number=1,
            seed=1,
            deadline_s=25.0,
        )
    assert len(model.seen) == 2
    assert caught.value.hint
