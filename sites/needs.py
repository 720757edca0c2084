"""What a study takes of a machine and of a line, known before its first round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ppfl.crypto import EngineName, PublicKey
from ppfl.learning.models import build_study_model, get_parameters
from ppfl.settings import Study
from sites.traffic import Traffic, site_traffic
from sites.vectors import create_suite

TRAINING_BYTES: Final = 2_000_000_000
"""Memory of a process that trains: torch, the network at 128 pixels, its batches, the vectors."""

_PROGRAM_BYTES = 500_000_000  # Flower's programs beside it, or the coordinator's
_LOG_BYTES = 200_000_000
_ORDERED = 2  # of the X-rays while they are decoded and put in order
_STATES = 3  # of a server optimiser: two are kept, and one is being written
_STATE_MODELS = 3  # the model, and as much for each of two moments
_COPIES = 4  # of an update and of a model that a process or a disk may hold at one time


@dataclass(frozen=True, slots=True)
class Needs:
    """What a study takes: bytes over each site's line, and of machines, about.

    ``site_disk`` and ``site_memory`` are beside the site's X-rays, and hold what the study makes
    of them.
    """

    traffic: Traffic
    site_memory: int
    site_disk: int
    coordinator_memory: int
    coordinator_disk: int


def needs_of(
    study: Study, public: PublicKey, *, engine: EngineName = "auto", images: int = 0
) -> Needs:
    """What a study takes under its key, at a site with so many X-rays.

    Raises:
        KeyMismatchError: the key is not the study's.
        SettingsError: the engine cannot run on this machine.
        ModelError: the network cannot be built, or has no such layers as the study keeps local.
    """
    suite = create_suite(study, public, engine=engine)
    start = get_parameters(build_study_model(study))
    traffic = site_traffic(study, suite, start)
    kept = _COPIES * (sum(array.nbytes for array in start.values()) + traffic.round_up)
    # SuperLink keeps a round's messages in its database, and once more in the database's journal
    messages = 2 * (len(study.federation.sites) + 1) * traffic.round_down
    # a byte a pixel in the cache (a vault has none: a little too much), three more as cipher images
    pixels, cipher = images * study.images.size**2, study.images.cipher
    cached = pixels * (4 if cipher == "fresh_randomness" else 1)
    seen = pixels * (_ORDERED if cipher == "none" else _ORDERED + 3)
    federation, rounds = study.federation, study.training.rounds
    totals = study.training.server_optimiser != "average"
    vectors = rounds * (totals + federation.keep_ciphertexts * len(federation.sites))
    states = totals * _STATES * _STATE_MODELS * sum(array.nbytes for array in start.values())
    return Needs(
        traffic,
        site_memory=TRAINING_BYTES + _PROGRAM_BYTES + kept + seen,
        site_disk=_LOG_BYTES + kept + cached + states,
        coordinator_memory=2 * _PROGRAM_BYTES + 2 * kept,
        coordinator_disk=_LOG_BYTES + kept + messages + vectors * traffic.round_up,
    )
