"""Which ways to train go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppfl.settings.study import ModelOptions, TrainingOptions


def check_methods(model: ModelOptions, training: TrainingOptions) -> None:
    """Check that a study's methods make sense together.

    Raises:
        ValueError: two of them exclude each other, or one of them changes nothing.
    """
    scaffold = training.optimiser == "scaffold"
    if training.local_steps and training.local_epochs > 1:
        raise ValueError("local_steps takes the place of local_epochs: choose one")
    if training.momentum and training.optimiser != "sgd":
        raise ValueError(f"momentum is one of sgd, not of {training.optimiser}")
    if scaffold and training.proximal_mu:
        raise ValueError("scaffold and proximal_mu both correct a site's steps: choose one")
    if scaffold and training.server_optimiser != "average":
        raise ValueError(
            f"scaffold takes the average as the next model, {training.server_optimiser} does not: "
            "choose one"
        )
    if training.server_learning_rate and training.server_optimiser == "average":
        raise ValueError("server_learning_rate needs a server_optimiser: average has no rate")
    if training.frozen_statistics and model.batch_norm == "group":
        raise ValueError("group norm has no running statistics that frozen_statistics could freeze")
    if training.frozen_statistics and model.batch_norm == "local":
        raise ValueError(
            "frozen_statistics with batch_norm local: a site that joins in the last rounds would "
            "have no statistics of its own, and never estimate any"
        )
    if training.frozen_rounds == training.rounds and model.start == "seed":
        raise ValueError(
            "frozen_statistics leaves no round to estimate them, and the start is random: its "
            "running statistics are those of no images"
        )
