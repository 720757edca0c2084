"""The methods that are compared: named sets of a study's settings, and two that need no study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppfl.errors import SettingsError
from simulations.scenario import setting_path


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    ``changes`` are the settings in which its study differs from FedAvg's. A ``baseline`` is trained
    without a federation: each site alone, or all X-rays pooled. ``version`` counts changes of what
    the same settings train: results of an earlier one are refused.
    """

    key: str
    name: str
    changes: tuple[str, ...] = ()
    baseline: Literal["", "local", "pooled"] = ""
    version: int = 1


_SGD_RATE = "training.learning_rate=0.02"  # SGD takes other steps than AdamW
_LOGITS, _FROZEN = "training.logit_adjustment=1", "training.frozen_statistics=1.0"

# FedSGD, whose mean gradient over all sites is what FedAdam steps along: many rounds, each of few
# images. Gradients are small beside parameters, so that they need more bits; and a batch of one
# class must not settle what batch norm calls normal.
_ONE_STEP = (
    *("training.rounds=80", "training.local_steps=1", "training.local_epochs=1"),
    "training.batch_size=64",
    *('training.optimiser="sgd"', "training.learning_rate=0.1", "encryption.value_bits=20"),
    *('training.server_optimiser="fedadam"', "training.server_learning_rate=3e-4"),
    *("training.server_tau=1e-5", _FROZEN, "training.weight_decay=0"),
)

METHODS = (
    Method("pooled", "all X-rays pooled", baseline="pooled"),
    Method("local", "each site alone", baseline="local"),
    Method("fedavg", "FedAvg"),
    Method("fedprox", "FedProx", ("training.proximal_mu=0.01",)),
    Method("fedbn", "FedBN", ('model.batch_norm="local"',)),
    Method("head", "local head", ('model.local_layers=["classifier"]',)),
    Method("personal", "FedAvg, then personal heads", ("training.personalise_epochs=2",)),
    Method("groupnorm", "GroupNorm", ('model.batch_norm="group"',)),
    Method("tail", "trained from features.14", ('model.train_from="features.14"',)),
    Method("frozen", "frozen statistics", ("training.frozen_statistics=0.5",)),
    Method("logits", "logit adjustment", (_LOGITS,)),
    Method("logits-frozen", "logit adjustment on frozen statistics", (_LOGITS, _FROZEN)),
    Method("fedavgm", "FedAvgM", ('training.server_optimiser="fedavgm"',)),
    Method("fedadam", "FedAdam", ('training.server_optimiser="fedadam"',)),
    Method("fedyogi", "FedYogi", ('training.server_optimiser="fedyogi"',)),
    Method(
        "sgd",
        "FedAvg over SGD",
        ('training.optimiser="sgd"', "training.momentum=0.9", _SGD_RATE),
    ),
    # 2: a small site's control variates are no longer cut off
    Method("scaffold", "SCAFFOLD", ('training.optimiser="scaffold"', _SGD_RATE), version=2),
    Method("one-step", "one step a round, FedAdam", _ONE_STEP),
)

SCENARIOS = (
    "iid",
    "dirichlet-0.5",
    "dirichlet-0.1",
    "pathological",
    "natural",
    "unequal",
    "noisy-labels",
    "drift",
)
"""Built-in scenarios that are compared by default."""


def choose_methods(text: str) -> Sequence[Method]:
    """The methods that a comma-separated list of keys names, all of them if it is empty.

    Raises:
        SettingsError: one of them does not exist.
    """
    every = {method.key: method for method in METHODS}
    wanted = [key.strip() for key in text.split(",") if key.strip()]
    if strange := [key for key in wanted if key not in every]:
        raise SettingsError(f"--methods {strange[0]}: methods are {', '.join(every)}")
    return [method for key, method in every.items() if key in wanted or not wanted]


def refuse_settled(changes: Sequence[str], methods: Sequence[Method]) -> None:
    """Make sure that no setting is given that a method settles itself, as it would be ignored.

    Raises:
        SettingsError: one is; the message names all such methods.
    """
    for change in changes:
        key = change.partition("=")[0]
        own = [method.key for method in methods if _settles(method, setting_path(key))]
        if own:
            rest = [method.key for method in methods if method.key not in own]
            raise SettingsError(
                f"--set {key}: {', '.join(own)} would not follow it, having a value of their own",
                hint=f"--methods {','.join(rest)} leaves them out" if rest else "another setting",
            )


def _settles(method: Method, path: Sequence[str]) -> bool:
    for own in method.changes:
        settled = setting_path(own.partition("=")[0])
        shorter = min(len(path), len(settled))  # a whole table holds the setting, too
        if list(path[:shorter]) == settled[:shorter]:
            return True
    return False
