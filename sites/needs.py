"""What a study takes of a machine and of a line, known before its first round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ppfl.crypto import EngineName, PublicKey
from ppfl.learning.models import build_model, get_parameters, shared_names
from ppfl.settings import Study
from sites.vectors import create_suite, shapes_of, update_plan

TRAINING_BYTES: Final = 2_000_000_000
"""Memory of a process that trains: torch, the network at 128 pixels, its batches, the vectors."""

_PROGRAM_BYTES = 500_000_000  # Flower's programs beside it, or the coordinator's
_LOG_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """What a study takes.

    ``values`` are the integers in an update, ``update_bytes`` its length on the wire; the total
    that comes back is as long. ``start_bytes`` are the starting parameters'.
    """

    study: Study
    values: int
    update_bytes: int
    start_bytes: int

    @property
    def site_traffic_bytes(self) -> int:
        """Bytes that one site sends and receives, in all rounds together."""
        return self.start_bytes + 2 * self.study.training.rounds * self.update_bytes

    @property
    def site_memory_bytes(self) -> int:
        """Memory that a site must have free, about, beside its X-rays."""
        return TRAINING_BYTES + _PROGRAM_BYTES + 4 * self.update_bytes

    @property
    def site_disk_bytes(self) -> int:
        """Disk that a site must have free, about, beside its cache of X-rays."""
        return _LOG_BYTES + 4 * (self.start_bytes + self.update_bytes)

    @property
    def coordinator_memory_bytes(self) -> int:
        """Memory that the coordinator must have free, about: adding holds one answer at a time."""
        return 2 * _PROGRAM_BYTES + 8 * (self.start_bytes + self.update_bytes)

    @property
    def coordinator_disk_bytes(self) -> int:
        """Disk that it must have free, about: SuperLink keeps a round's messages, in two files."""
        messages = 2 * (len(self.study.federation.sites) + 1) * self.update_bytes
        return _LOG_BYTES + messages + 4 * (self.start_bytes + self.update_bytes)


def needs_of(study: Study, public: PublicKey, *, engine: EngineName = "auto") -> Needs:
    """What a study takes under its key.

    Raises:
        KeyMismatchError: the key is not the study's.
        SettingsError: the engine cannot run on this machine.
        ModelError: the network cannot be built, or has no such layers as the study keeps local.
    """
    suite = create_suite(study, public, engine=engine)
    parameters = get_parameters(
        build_model(study.model.architecture, classes=len(study.classes), seed=study.seed)
    )
    shared = {name: parameters[name] for name in shared_names(parameters, study.model)}
    values = update_plan(study, shapes_of(shared)).values
    return Needs(
        study,
        values=values,
        update_bytes=suite.expected(values).wire_bytes,
        start_bytes=sum(array.nbytes for array in parameters.values()),
    )
