"""SCAFFOLD's control variates: sealed beside the parameters, and a site's own kept at the site.

[KKM20] Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic controlled averaging
for federated learning. ICML 2020, Algorithm 1, option II.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ppfl.codec import CONTROL, WEIGHT_UNIT, extents_of, ranges_of, weight_units
from ppfl.learning.models import STATISTICS
from sites.requests import Parameters

Shapes = Mapping[str, tuple[int, ...]]


def control_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of the control variates of these shared tensors: one for each that gradients move."""
    return {
        f"{CONTROL}{name}": shape for name, shape in shapes.items() if not name.endswith(STATISTICS)
    }


def is_control(name: str) -> bool:
    """Whether a tensor that is sealed or kept is a control variate."""
    return name.startswith(CONTROL)


@dataclass(frozen=True, slots=True, eq=False)
class ControlVariates:
    """The federation's control variate c and the site's own c_i, both by ``control.`` and a name.

    Both are empty where the study has none.
    """

    federation: Parameters = field(default_factory=dict)
    own: Parameters = field(default_factory=dict)

    def corrections(self) -> Parameters:
        """By parameter, what a step's gradient gains: c − c_i."""
        return {
            name.removeprefix(CONTROL): c - self.own[name] for name, c in self.federation.items()
        }

    def after(
        self, before: Parameters, trained: Parameters, *, rates: float, weight: float
    ) -> Parameters:
        """The site's own after a round: c_i⁺ = c_i − c + (x − y_i) / (K η_l) [KKM20].

        What is sealed is ``weight`` · c_i⁺, which has room for ± twice the largest of c in its
        channel and a little more. c_i⁺ is held within that, so that none is cut off on the way: c,
        their average, is of what sites keep. A small site's may be many times as large as c.

        Args:
            before: x, the shared parameters with which the round began.
            trained: y_i, those with which it ended.
            rates: the sum of the learning rates of the round's steps, K η_l if they are equal.
            weight: the site's share of the average, in (0, 1].
        """
        after: Parameters = {}
        for name, c in self.federation.items():
            parameter = name.removeprefix(CONTROL)
            moved = before[parameter].astype(np.float64) - trained[parameter]
            own = self.own[name].astype(np.float64) - c + moved / rates
            extents = extents_of(ranges_of({name: c})) / (weight_units(weight) * WEIGHT_UNIT)
            # the float32 next below: rounded up it would be out of range
            limits = np.nextafter(extents.astype(np.float32), np.float32(0))
            limits = limits.reshape(-1, *[1] * (c.ndim - 1))
            after[name] = np.clip(own, -limits, limits).astype(np.float32)
        return after
