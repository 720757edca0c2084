"""How a study trains, in sentences (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Iterator

from ppfl.settings import ModelOptions, Study, TrainingOptions

_SERVER = {"fedavgm": "FedAvgM", "fedadam": "FedAdam", "fedyogi": "FedYogi"}


def training_sentences(study: Study) -> list[str]:
    """What a site does in a round, what becomes of the sum, and what stays at the sites."""
    return [
        *_network(study),
        *_at_site(study.training),
        _between(study.training),
        *_kept(study.model),
        *_at_end(study.training),
    ]


def _network(study: Study) -> Iterator[str]:
    start = "from random weights" if study.model.start == "seed" else "pretrained on ImageNet"
    size = study.images.size
    yield f"{study.model.architecture}, {start}; X-rays of {size} × {size} pixels."
    if study.images.cipher != "none":
        yield (
            "The network does not see the pixels but what encryption makes of each of them "
            f"({study.images.cipher}), to measure what that costs."
        )
    if study.model.batch_norm == "group":
        yield "Group norm takes batch norm's place."
    if study.model.train_from:
        yield (
            f"All layers before {study.model.train_from} stay as they start: they are neither "
            "trained nor sent."
        )


def local_work(epochs: int, steps: int) -> str:
    """What a site trains in a round: some steps, or where there are none, epochs."""
    count, unit = (steps, "step") if steps else (epochs, "epoch")
    return f"{count} local {unit}{'s' * (count > 1)}"


def _at_site(training: TrainingOptions) -> Iterator[str]:
    work = local_work(training.local_epochs, training.local_steps)
    extras = [
        ", classes weighted against imbalance" * training.class_weighting,
        ", with augmentation" * training.augmentation,
    ]
    yield (
        f"{training.rounds} rounds of {work}, batches of "
        f"{training.batch_size}, learning rate {training.learning_rate:g}, weight decay "
        f"{training.weight_decay:g}{''.join(extras)}."
    )
    match training.optimiser:
        case "adamw":
            yield "Sites train with AdamW."
        case "sgd":
            momentum = f", momentum {training.momentum:g}" if training.momentum else ""
            yield f"Sites train with SGD{momentum}."
        case "scaffold":
            yield (
                "Sites train with SCAFFOLD: SGD, each of whose steps is corrected by control "
                "variates; they are sealed and summed beside the parameters."
            )
    if training.logit_adjustment:
        yield (
            "In training each class's logit gains the logarithm of its share of the site's loss "
            f"(logit adjustment, τ = {training.logit_adjustment:g})."
        )
    if training.proximal_mu:
        yield (
            "A site's loss pulls towards the model that the round began with (FedProx, "
            f"μ = {training.proximal_mu:g})."
        )


def _between(training: TrainingOptions) -> str:
    average = "the average of the sites' models, weighted by their numbers of training images"
    if training.server_optimiser == "average":
        return f"After each round the model is {average}."
    options = f"rate {training.server_rate:g}, momentum {training.server_momentum:g}"
    if training.server_optimiser != "fedavgm":
        options += f", β₂ {training.server_beta2:g}, τ {training.server_tau:g}"
    name = _SERVER[training.server_optimiser]
    return (
        f"After each round every site takes the same step of {name} ({options}) towards {average}."
    )


def _kept(model: ModelOptions) -> Iterator[str]:
    kept = []
    if model.batch_norm == "local":
        kept.append("batch norm with its statistics (FedBN)")
    if model.local_layers:
        kept.append(f"the layers {', '.join(model.local_layers)}")
    if kept:
        yield (
            f"Not averaged but each site's own, and never sent: {' and '.join(kept)}. So each site "
            "ends with a model of its own, and is tested with it."
        )


def _at_end(training: TrainingOptions) -> Iterator[str]:
    if frozen := training.frozen_rounds:
        rounds = "round" if frozen == 1 else f"{frozen} rounds"
        yield f"In the last {rounds} batch norm's running statistics stay as they are."
    if passes := training.personalise_epochs:
        epochs = "epoch" if passes == 1 else "epochs"
        yield (
            f"After the last round each site trains the last layer for {passes} {epochs} on its "
            "own images alone, for a personal model beside the study's."
        )
