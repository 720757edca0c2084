"""Steps of the global model towards the sites' average, the same at every site, bit for bit.

A site that opens the sum of a round takes the step itself, for there is no server that could read
it. All is elementwise arithmetic in float64, whose operations are rounded in one way on every
machine, and is rounded to float32 at the end of a step.

[RCZ21] Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive federated
optimization. ICLR 2021, Algorithm 2.

[HQB19] Hsu, Qi, Brown: Measuring the effects of non-identical data distribution for federated
visual classification. arXiv:1909.06335, 2019, §4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.learning.models import STATISTICS
from ppfl.settings import TrainingOptions

Parameters = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """The global model x_t, and what the optimiser remembers of its steps.

    ``momentum`` is m_t and ``squares`` v_t, by parameter, in the model's shapes; batch norm's
    running statistics have neither. ``squares`` is empty for FedAvgM.
    """

    model: Parameters
    momentum: Parameters
    squares: Parameters

    @classmethod
    def at_start(
        cls, start: Mapping[str, NDArray[np.float32]], options: TrainingOptions
    ) -> ServerState:
        """Before the first round: m = 0, and v = τ² [RCZ21]."""
        stepped = {name: array for name, array in start.items() if not name.endswith(STATISTICS)}
        squares: Parameters = {}
        if options.server_optimiser != "fedavgm":
            tau2 = np.float32(options.server_tau**2)
            squares = {name: np.full_like(array, tau2) for name, array in stepped.items()}
        momentum = {name: np.zeros_like(array) for name, array in stepped.items()}
        return cls(dict(start), momentum, squares)

    def step(
        self, average: Mapping[str, NDArray[np.float32]], options: TrainingOptions
    ) -> ServerState:
        """The state after a round whose average was opened, with Δ = average − x_{t−1}.

        FedAvgM [HQB19]: m = β m + Δ, x = x + η m. FedAdam and FedYogi [RCZ21]:
        m = β₁ m + (1 − β₁) Δ, x = x + η m / (√v + τ), with v = β₂ v + (1 − β₂) Δ² or
        v = v − (1 − β₂) Δ² sign(v − Δ²). Running statistics are not steps of an optimiser: they
        become the average's.
        """
        kind, beta, beta2 = (
            options.server_optimiser,
            options.server_momentum,
            options.server_beta2,
        )
        adaptive = kind != "fedavgm"
        model, momentum, squares = dict(average), dict[str, NDArray[np.float32]](), Parameters()
        for name, before in self.momentum.items():
            x = self.model[name].astype(np.float64)
            delta = average[name].astype(np.float64) - x
            m = beta * before.astype(np.float64) + (1 - beta if adaptive else 1.0) * delta
            move = options.server_rate * m
            if adaptive:
                v, square = self.squares[name].astype(np.float64), delta * delta
                if kind == "fedadam":
                    v = beta2 * v + (1 - beta2) * square
                else:
                    v = v - (1 - beta2) * square * np.sign(v - square)
                move = move / (np.sqrt(v) + options.server_tau)
                squares[name] = v.astype(np.float32)
            model[name] = (x + move).astype(np.float32)
            momentum[name] = m.astype(np.float32)
        return ServerState(model, momentum, squares)
