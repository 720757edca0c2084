"""Training at one site between two sums.

[WJ21] Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, §3.

[LSZ20] T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.

[KMM19] D. Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", 2019, arXiv
1905.12322.

[KKM20] S. P. Karimireddy et al., "SCAFFOLD", ICML 2020.

[MJR21] A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ppfl.errors import DataError, NotFiniteError, RoundError
from ppfl.learning.augment import augment
from ppfl.learning.device import choose_device, seeded
from ppfl.learning.images import ImageSet
from ppfl.learning.models import as_tensor, batch_norm_layers, network_input
from ppfl.settings import TrainingOptions

_STATISTIC_IMAGES = 256  # more cost a fifth of an epoch and gain no accuracy
_STATISTIC_BATCH = 64
_HIGHEST_CLASS_WEIGHT = 20.0  # over that of the commonest class: one image must not rule a site


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What one round of training came to.

    ``loss`` is the mean over the images of the last epoch, or of all steps if there are fewer, in
    nats; ``images`` is the site's number of images; ``rates`` is the sum of the steps' learning
    rates; ``seconds`` is wall time.
    """

    loss: float
    steps: int
    rates: float
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
    corrections: Mapping[str, NDArray[np.float32]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    deadline_s: float | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train the model in place, for ``local_epochs`` or ``local_steps``, and say how it went.

    Nothing is kept between rounds here: the rate depends on the round alone, and the optimiser's
    moments start at zero. The same arguments on the same number of threads give the same
    parameters, bit for bit, on one kind of processor and one version of torch; a GPU has bits of
    its own. Parameters that require no gradient stay as they are.

    With ``proximal_mu`` the loss of a step gains μ/2 · ‖w − w_t‖², where w_t is the model as it was
    given [LSZ20, eq. 2].

    With ``logit_adjustment`` τ the loss of a step is the cross-entropy of the logits plus τ log π,
    where π are the shares of the classes in the site's loss, a class that it lacks counted as one
    image [MJR21, eq. 10]; so what the model says of an image does not take on the site's mix.

    Afterwards batch norm's running statistics are estimated anew, with the parameters as they have
    become and on images as they are [WJ21]: those gathered in training belong to earlier parameters
    and to augmented images, and an average of them misleads the network on all sites.

    Batch norm trains with the statistics that it was given, and leaves them as they are, in the
    study's last rounds where ``frozen_statistics`` says so, in layers that are not trained, and at
    a site with a single image, since one image has no variance.

    With ``precision`` bfloat16 matrix products and convolutions of a step are in bfloat16 [KMM19];
    parameters, the loss, the optimiser and the statistics stay in float32.

    Args:
        model: from ``build_study_model``; it is left in training mode, on the device.
        data: the site's images, at least one, and labels in [0, classes).
        options: the study's.
        classes: number of classes.
        normalisation: mean and standard deviation of a pixel in [0, 1].
        round_number: in [1, options.rounds].
        seed: where the order of images, their augmentation and dropout begin.
        corrections: by parameter, what is added to its gradient in every step [KKM20, eq. 3].
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
    weights = _class_weights(data.labels, classes, weighted=options.class_weighting)
    prior = options.logit_adjustment * _log_shares(data.labels, weights).to(device)
    weights = weights.to(device)
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = _optimiser(model, options)
    adjust = _Adjustment(model, options.proximal_mu, corrections or {})
    estimated = []
    for layer in batch_norm_layers(model).values():
        frozen = layer.affine and not layer.weight.requires_grad
        if images == 1 or frozen or round_number > options.rounds - options.frozen_rounds:
            layer.eval()
        elif layer.track_running_stats:
            estimated.append(layer)
    batches_an_epoch = len(_cuts(images, options.batch_size)) + 1
    steps = options.local_steps or batches_an_epoch * options.local_epochs
    lower: AbstractContextManager[object] = nullcontext()
    if options.precision == "bfloat16":
        lower = torch.autocast(device.type, torch.bfloat16)
    losses: list[float] = []  # of a batch's images together
    seen: list[int] = []
    rates: list[float] = []
    with seeded(device, start):
        batches = itertools.islice(_batches(images, options.batch_size, generator), steps)
        for step, chosen in enumerate(batches):
            if deadline_s is not None and time.monotonic() - started > deadline_s:
                raise RoundError(
                    f"round {round_number}: {deadline_s:g} s were over after {step} of {steps} "
                    "training steps",
                    hint="a longer deadline_s, fewer local epochs or steps, or a faster machine",
                )
            # The middle of a step, so that neither the first nor the last is taken at rate 0.
            done = (round_number - 1 + (step + 0.5) / steps) / options.rounds
            rate = learning_rate_at(done, options)
            rates.append(rate)
            for group in optimiser.param_groups:
                group["lr"] = rate
            pixels = as_tensor(data.images[chosen], device)
            if options.augmentation:
                pixels = augment(pixels, generator)
            labels = torch.from_numpy(data.labels[chosen]).to(device)
            with lower:
                logits = model(network_input(pixels, normalisation))
            each = functional.cross_entropy(
                logits.float() + prior,
                labels,
                label_smoothing=options.label_smoothing,
                reduction="none",
            )
            loss = (each * weights[labels]).mean()
            losses.append(loss.item() * len(chosen))
            seen.append(len(chosen))
            if not math.isfinite(losses[-1]):
                raise NotFiniteError(
                    f"round {round_number}: the loss became NaN or infinite in step {step + 1}",
                    hint="a lower learning_rate; or check the images' normalisation",
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adjust.gradients()
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)
        if estimated:
            chosen = torch.randperm(images, generator=generator)[:_STATISTIC_IMAGES].numpy()
            _estimate_statistics(model, estimated, data.images[chosen], normalisation, device)
    return TrainingResult(
        loss=sum(losses[-batches_an_epoch:]) / sum(seen[-batches_an_epoch:]),
        steps=steps,
        rates=math.fsum(rates),
        images=images,
        seconds=time.monotonic() - started,
    )


class _Adjustment:
    """What a study's method adds to each step's gradients."""

    def __init__(
        self, model: nn.Module, mu: float, corrections: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self._mu = mu
        learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._pulled = [(p, p.detach().clone()) for p in learnt.values()] if mu else []
        self._corrected = [
            (learnt[name], torch.tensor(c, device=learnt[name].device))
            for name, c in corrections.items()
            if name in learnt  # a constant of the network moves by no gradient
        ]

    def gradients(self) -> None:
        """Add it to the gradients that the loss has left."""
        for parameter, start in self._pulled:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
        for parameter, correction in self._corrected:
            if parameter.grad is not None:
                parameter.grad.add_(correction)


def _estimate_statistics(
    model: nn.Module,
    layers: Sequence[_BatchNorm],
    images: NDArray[np.uint8],
    normalisation: tuple[float, float],
    device: torch.device,
) -> None:
    """Set the running statistics of batch-norm layers to the means over batches of these images."""
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
    images: int, batch_size: int, generator: torch.Generator
) -> Iterator[NDArray[np.int64]]:
    """Epoch after epoch, without end."""
    while True:
        order = torch.randperm(images, generator=generator).numpy()
        yield from np.split(order, _cuts(images, batch_size))


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


def _log_shares(labels: NDArray[np.int64], weights: Tensor) -> Tensor:
    """(classes,) the logarithms of what each class's images count in the loss together."""
    counts = torch.from_numpy(np.bincount(labels, minlength=len(weights))).clamp(min=1)
    return torch.log_softmax(torch.log(counts * weights), dim=0)


def _optimiser(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """The study's, whose rate is set before each step."""
    groups = _parameter_groups(model, options.weight_decay)
    # fused: one pass over all tensors, a tenth of a step's time less than one tensor at a time
    if options.optimiser == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=options.momentum, fused=True)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Biases and the scales of norms, which are the vectors, do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
