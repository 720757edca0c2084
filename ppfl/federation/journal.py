"""The record of a run: one event a line (docs/journal.md)."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ppfl.errors import RunError, write_error

AlarmCode = Literal[
    "metrics-disagree", "model-disagrees", "mean-xrays-disagree", "site-lost", "clipping"
]

INTERNAL = "internal"
"""The code of a failure that is none of ppfl's errors: something is wrong in the code."""


class Event(BaseModel):
    """What every line has: the format's version and the time, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))


class StudyStarted(Event):
    """A run began, or went on after ``resumed_after`` complete rounds."""

    event: Literal["study_started"] = "study_started"
    run: str
    study: str = Field(description="the study's name")
    study_fingerprint: str
    classes: tuple[str, ...]
    custody: str
    suite: str
    protection: str
    key_fingerprint: str
    key_bits: int
    sites: tuple[str, ...]
    minimum_sites: int
    deadline_s: float
    rounds: int
    values: int = Field(description="integers in one update")
    update_bytes: int = Field(description="bytes that each site sends in a round")
    round_bytes_down: int = Field(0, description="bytes that each site receives in a round")
    study_bytes_up: int = Field(0, description="bytes that each site sends in all rounds to come")
    study_bytes_down: int = Field(0, description="bytes that each site receives in them")
    versions: dict[str, str]
    resumed_after: int


class SiteEnrolled(Event):
    """A site agreed to the study and sent its encrypted counts."""

    event: Literal["site_enrolled"] = "site_enrolled"
    site: str
    bytes_up: int
    bytes_down: int = Field(0, description="of the starting parameters")


class RoundStarted(Event):
    """The coordinator asked the sites for updates."""

    event: Literal["round_started"] = "round_started"
    round: int
    sites: tuple[str, ...]


class SiteAnswered(Event):
    """A site's update arrived and was added."""

    event: Literal["site_answered"] = "site_answered"
    round: int
    site: str
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float] = Field(
        description="open, evaluate, train, seal; ahead: of sealing, beside training; add"
    )
    clipped: int


class SiteAskedAgain(Event):
    """A site was lost on the way, is back, and was asked once more; ``code`` is Flower's."""

    event: Literal["site_asked_again"] = "site_asked_again"
    round: int
    site: str
    code: str


class SiteFailed(Event):
    """A site is not in the round's total; ``code`` is one of ppfl.errors, or Flower's."""

    event: Literal["site_failed"] = "site_failed"
    round: int
    site: str
    code: str
    sentence: str


class RoundClosed(Event):
    """The total is complete and on disk."""

    event: Literal["round_closed"] = "round_closed"
    round: int
    sites: tuple[str, ...]
    seconds: float
    total_sha256: str


class MetricsReleased(Event):
    """The sites opened the federation's counts for the model after ``round`` rounds."""

    event: Literal["metrics_released"] = "metrics_released"
    round: int
    split: Literal["validation", "test"]
    sites: tuple[str, ...]
    metrics: dict[str, Any]


class MeanXRaysReleased(Event):
    """The sites opened the federation's sums of X-rays, once, before the first round."""

    event: Literal["mean_xrays_released"] = "mean_xrays_released"
    sites: tuple[str, ...]
    bytes_up: int = Field(description="bytes of the sums that each site sent, sealed")
    pictures: dict[str, str] = Field(
        description="the mean X-ray of each class that enough images and sites are behind: a PNG "
        "file, 8-bit grey, in base64"
    )


class Alarm(Event):
    """Something that a person should look at."""

    event: Literal["alarm"] = "alarm"
    round: int
    code: AlarmCode
    sentence: str


class LeftHospital(Event):
    """All that left one hospital in one answer, and how each part was protected."""

    event: Literal["left_hospital"] = "left_hospital"
    round: int
    site: str
    items: tuple[LeftItem, ...]
    again: bool = Field(False, description="the bytes of an earlier answer, sent once more")


class LeftItem(BaseModel):
    """One thing that left a hospital."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    protection: str
    bytes: int


class WillSend(Event):
    """What a study takes from a site and to it, told before anything has left."""

    event: Literal["will_send"] = "will_send"
    site: str
    rounds: int
    round_bytes_up: int
    round_bytes_down: int
    study_bytes_up: int = Field(description="in all rounds, from enrolment to the closing")
    study_bytes_down: int


class Refused(Event):
    """This site refused a request; ``reason`` stays in the site's own journal."""

    event: Literal["refused"] = "refused"
    round: int
    code: str
    reason: str


class ModelKept(Event):
    """A site keeps the model of the study."""

    event: Literal["model_kept"] = "model_kept"
    round: int
    site: str
    sha256: str


class StudyClosed(Event):
    """All rounds are complete and the sites hold the model."""

    event: Literal["study_closed"] = "study_closed"
    rounds: int
    sites: tuple[str, ...]
    model_sha256: str
    seconds: float


class StudyFailed(Event):
    """The run ended early; all up to the last complete round is kept."""

    event: Literal["study_failed"] = "study_failed"
    round: int
    code: str
    sentence: str


AnyEvent = (
    StudyStarted
    | SiteEnrolled
    | RoundStarted
    | SiteAnswered
    | SiteAskedAgain
    | SiteFailed
    | RoundClosed
    | MetricsReleased
    | MeanXRaysReleased
    | Alarm
    | LeftHospital
    | WillSend
    | Refused
    | ModelKept
    | StudyClosed
    | StudyFailed
)
_ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


class Journal:
    """Appends events to a file; an event is on disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            DiskFullError: there is no room for it.
            RunError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() and not _ends_a_line(self.path):
                    file.write(b"\n")  # a torn last line, from a crash, stays a line of its own
                file.write(event.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(f"{self.path}: cannot be written", error) from None


def read_journal(path: Path) -> list[AnyEvent]:
    """The events of a journal; a line torn by a crash is left out.

    Raises:
        RunError: the file is missing, or a line is whole JSON but no event of this version.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise RunError(f"{path}: no such journal") from None
    events: list[AnyEvent] = []
    for number, line in enumerate(lines, start=1):
        try:
            table = json.loads(line)
        except ValueError:
            continue
        try:
            events.append(_ADAPTER.validate_python(table, strict=False))
        except ValidationError:
            raise RunError(f"{path}, line {number}: no event of version 1") from None
    return events


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
