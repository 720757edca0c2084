"""Training at one site between two sums.

[WJ21] Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, §3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ppfl.errors import DataError, NotFiniteError, RoundError
from ppfl.learning.augment import augment
from ppfl.learning.device import choose_device, seeded
from ppfl.learning.images import ImageSet
from ppfl.learning.models import as_tensor, batch_norm_layers, network_input
from ppfl.settings import TrainingOptions

_STATISTIC_IMAGES = 1024  # enough for statistics that hardly vary from draw to draw
_STATISTIC_BATCH = 64
_HIGHEST_CLASS_WEIGHT = 20.0  # over that of the commonest class: one image must not rule a site


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What one round of training came to.

    ``loss`` is the mean over the images of the last epoch, in nats; ``images`` is the site's number
    of images, each seen once an epoch; ``seconds`` is wall time.
    """

    loss: float
    steps: int
    images: int
    seconds: float


def train_locally(
    model: nn.Module,
    data: ImageSet,
    options: TrainingOptions,
    *,
    classes: int,
    normalisation: tuple[float, float],
    round_number: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    deadline_s: float | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train the model in place for ``options.local_epochs`` and say how it went.

    A site keeps no state between rounds: the rate depends on the round alone, AdamW's moments start
    at zero. The same arguments on the same number of threads give the same parameters, bit for bit,
    on one kind of processor and one version of torch; a GPU has bits of its own.

    Afterwards batch norm's running statistics are estimated anew, with the parameters as they have
    become and on images as they are [WJ21]: those gathered in training belong to earlier parameters
    and to augmented images, and an average of them misleads the network on all sites.

    A site with a single image trains with the global statistics of batch norm and leaves them as
    they are, since one image has no variance.

    Args:
        model: from ``build_model``; it is left in training mode, on the device.
        data: the site's images, at least one, and labels in [0, classes).
        options: the study's.
        classes: number of classes.
        normalisation: mean and standard deviation of a pixel in [0, 1].
        round_number: in [1, options.rounds].
        seed: where the order of images, their augmentation and dropout begin.
        progress: told the steps done and the steps in all, after each step.
        deadline_s: seconds from now after which to give up, looked at before each step.
        device: where to train; without one, that of ``choose_device``.

    Raises:
        DataError: no images, or a label that is no class.
        RoundError: the deadline has passed, or the study has no such round.
        NotFiniteError: the loss became NaN or infinite.
    """
    started = time.monotonic()
    images = len(data.labels)
    if images == 0:
        raise DataError("no images to train on")
    if data.labels.min() < 0 or data.labels.max() >= classes:
        raise DataError(f"a label is outside [0, {classes})")
    if not 1 <= round_number <= options.rounds:
        raise RoundError(f"round {round_number} of a study that has {options.rounds}")
    start = int(np.random.SeedSequence((seed, round_number)).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(start)
    device = device or choose_device()
    weights = _class_weights(data.labels, classes, weighted=options.class_weighting).to(device)
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    # fused: one pass over all tensors, a tenth of a step's time less than one tensor at a time
    optimiser = torch.optim.AdamW(_parameter_groups(model, options.weight_decay), fused=True)
    if images == 1:
        for layer in batch_norm_layers(model).values():
            layer.eval()
    batches_an_epoch = len(_cuts(images, options.batch_size)) + 1
    steps = batches_an_epoch * options.local_epochs
    losses: list[float] = []
    with seeded(device, start):
        for step, chosen in enumerate(_batches(images, options, generator)):
            if deadline_s is not None and time.monotonic() - started > deadline_s:
                raise RoundError(
                    f"round {round_number}: {deadline_s:g} s were over after {step} of {steps} "
                    "training steps",
                    hint="a longer deadline_s, fewer local_epochs or a faster machine",
                )
            # The middle of a step, so that neither the first nor the last is taken at rate 0.
            done = (round_number - 1 + (step + 0.5) / steps) / options.rounds
            rate = learning_rate_at(done, options)
            for group in optimiser.param_groups:
                group["lr"] = rate
            pixels = as_tensor(data.images[chosen], device)
            if options.augmentation:
                pixels = augment(pixels, generator)
            labels = torch.from_numpy(data.labels[chosen]).to(device)
            each = functional.cross_entropy(
                model(network_input(pixels, normalisation)),
                labels,
                label_smoothing=options.label_smoothing,
                reduction="none",
            )
            loss = (each * weights[labels]).mean()
            losses.append(loss.item() * len(chosen))
            if not math.isfinite(losses[-1]):
                raise NotFiniteError(
                    f"round {round_number}: the loss became NaN or infinite in step {step + 1}",
                    hint="a lower learning_rate; or check the images' normalisation",
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)
        if images > 1:
            chosen = torch.randperm(images, generator=generator)[:_STATISTIC_IMAGES].numpy()
            _estimate_statistics(model, data.images[chosen], normalisation, device)
    return TrainingResult(
        loss=sum(losses[-batches_an_epoch:]) / images,
        steps=steps,
        images=images,
        seconds=time.monotonic() - started,
    )


def _estimate_statistics(
    model: nn.Module,
    images: NDArray[np.uint8],
    normalisation: tuple[float, float],
    device: torch.device,
) -> None:
    """Set batch norm's running statistics to the means over batches of these images."""
    layers = [layer for layer in batch_norm_layers(model).values() if layer.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    model.eval()  # so that dropout is off
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a mean over all batches
        layer.train()
    with torch.no_grad():
        for batch in np.split(images, _cuts(len(images), _STATISTIC_BATCH)):
            model(network_input(as_tensor(batch, device), normalisation))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train()


def _batches(
    images: int, options: TrainingOptions, generator: torch.Generator
) -> Iterator[NDArray[np.int64]]:
    for _ in range(options.local_epochs):
        order = torch.randperm(images, generator=generator).numpy()
        yield from np.split(order, _cuts(images, options.batch_size))


def _cuts(images: int, batch_size: int) -> list[int]:
    """Where an epoch is cut into batches; a single image left over joins the batch before it."""
    cuts = list(range(batch_size, images, batch_size))
    return cuts[:-1] if images % batch_size == 1 else cuts


def learning_rate_at(progress: float, options: TrainingOptions) -> float:
    """The learning rate after a share of the whole study, ``progress`` in [0, 1].

    It rises in a line from 0 over ``options.warmup``, then falls along a cosine to 0 at the end.
    """
    if progress < options.warmup:
        return options.learning_rate * progress / options.warmup
    falling = (progress - options.warmup) / (1 - options.warmup)
    return options.learning_rate * (1 + math.cos(math.pi * falling)) / 2


def _class_weights(labels: NDArray[np.int64], classes: int, *, weighted: bool) -> Tensor:
    """What an image of each class counts in the loss, with a mean of 1 over the site's images."""
    if not weighted:
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    weights = 1 / np.maximum(counts, counts.max() / _HIGHEST_CLASS_WEIGHT)
    return torch.tensor(weights / weights[labels].mean(), dtype=torch.float32)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Biases and the scales of norms, which are the vectors, do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
