"""How many bytes a study takes from and to each site, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from ppfl.codec import Suite
from ppfl.federation.xray_sums import XRaySums
from ppfl.learning.models import shared_names
from ppfl.settings import Study
from sites.closing import closing_plan
from sites.requests import Parameters
from sites.vectors import enrolment_plan, shapes_of, update_plan

_AROUND_A_TENSOR = 195  # bytes of Flower's: numpy's header, the name, the type and the shape


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one site sends (up) and receives (down), in one round and in all rounds.

    All of enrolment, mean X-rays and the closing is in ``all_up`` and ``all_down``. Not counted is
    what is sent again after a fault, and what comes on top of the vectors: metrics and digests in
    the clear (a few kB a round), Flower's envelopes and TLS.
    """

    round_up: int
    round_down: int
    all_up: int
    all_down: int


def site_traffic(study: Study, suite: Suite, start: Parameters, *, done: int = 0) -> Traffic:
    """What each site has before it, if it takes part in every round.

    Args:
        study: what is trained.
        suite: how its vectors are sealed.
        start: the starting parameters, which every site receives when it enrols.
        done: complete rounds that a run goes on after; they are not counted.

    Raises:
        ModelError: the network has no such layers as the study keeps local.
    """
    shared = shared_names(start, study.model)
    plan = update_plan(study, shapes_of({name: start[name] for name in shared}))
    update, enrolment, closing = (
        suite.expected(values).wire_bytes
        for values in (plan.values, enrolment_plan(study).values, closing_plan(study).values)
    )
    rounds = study.training.rounds - done
    up = enrolment + rounds * update + closing
    # the first round has no total before it; to close, the site gets the last one, and the counts
    totals = rounds + (1 if done else 0)
    down = sum(array.nbytes + _AROUND_A_TENSOR for array in start.values())
    down += (rounds + 1) * enrolment + totals * update + closing
    if study.mean_xray_size and not done:
        sums = XRaySums(study, suite)
        xrays = sums.suite.expected(sums.values).wire_bytes
        up += xrays
        down += enrolment + xrays
    return Traffic(update, enrolment + update, up, down)
