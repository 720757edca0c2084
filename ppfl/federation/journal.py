"""The events of which the record of a run is made (docs/journal.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ppfl.federation.figures import ReleasedCounts, ReleasedFigures

JOURNAL_VERSION: Literal[2] = 2

AlarmCode = Literal[
    "metrics-disagree",
    "model-disagrees",
    "mean-xrays-disagree",
    "images-disagree",
    "site-lost",
    "clipping",
    "not-countersigned",
]

INTERNAL = "internal"
"""The code of a failure that is none of ppfl's errors: something is wrong in the code."""


class Event(BaseModel):
    """What every line has: the format's version, the time (UTC), and its place in the chain.

    ``previous`` is given by the journal when the event is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = JOURNAL_VERSION
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    previous: str = Field("", description="SHA-256 of the line before, empty in the first line")


class Record(Event):
    """An event that the coordinator signs, and with it all that stands before."""

    signature: str = Field("", description="the coordinator's, over the line without it")


class StudyStarted(Record):
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
    kept_bytes: int = Field(0, description="bytes of vectors that stay at the coordinator")
    journal_key: str = Field("", description="the coordinator's public key, OpenSSH")
    site_keys: dict[str, str] = Field(
        default_factory=dict, description="by site, the public key with which it countersigns"
    )
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
    bytes_up: int = Field(description="of its sealed vector")
    bytes_down: int
    clear_bytes: int = Field(0, description="of what it told in the clear beside it")
    sealed_sha256: str = Field("", description="digest of its sealed vector")
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


class RoundClosed(Record):
    """The total is complete and on disk: the record that the sites countersign."""

    event: Literal["round_closed"] = "round_closed"
    round: int
    sites: tuple[str, ...]
    seconds: float
    total_sha256: str
    vectors: dict[str, str] = Field(
        default_factory=dict, description="by site, the digest of the vector that is in the total"
    )


class RoundCountersigned(Event):
    """A site was shown the record of the last round, with the next request, and signed it."""

    event: Literal["round_countersigned"] = "round_countersigned"
    round: int
    site: str
    record_sha256: str = Field(description="digest of the record's line")
    signature: str


class MetricsReleased(Event):
    """The sites opened the federation's counts for the model after ``round`` rounds."""

    event: Literal["metrics_released"] = "metrics_released"
    round: int
    split: Literal["validation", "test", "personal"]
    sites: tuple[str, ...]
    metrics: ReleasedFigures
    counts: ReleasedCounts = Field(
        default_factory=dict,
        description="of the final model: `confusion`, `scores` and `calibration`, their bins "
        "joined until each holds `release_floor` images",
    )


class ImagesReleased(Event):
    """The sites told how many images they all train on, at the end, from what enrolment summed."""

    event: Literal["images_released"] = "images_released"
    sites: tuple[str, ...]
    images: dict[str, int] = Field(
        description="by class, without those of fewer images than `release_floor`"
    )


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
    site: str = Field("", description="empty if it is not one site's")
    code: AlarmCode
    sentence: str


class LeftHospital(Event):
    """All that left one hospital in one answer, and how each part was protected."""

    event: Literal["left_hospital"] = "left_hospital"
    run: str = Field("", description="for which run of the coordinator's")
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
    sha256: str = Field("", description="digest of a sealed vector")


class WillSend(Event):
    """What a study takes from a site and to it, told before anything has left."""

    event: Literal["will_send"] = "will_send"
    site: str
    rounds: int
    round_bytes_up: int
    round_bytes_down: int
    study_bytes_up: int = Field(description="in all rounds, from enrolment to the closing")
    study_bytes_down: int


class LabelsLeftOut(Event):
    """X-rays at this site are of no class of the study, which leaves them out."""

    event: Literal["labels_left_out"] = "labels_left_out"
    site: str
    labels: dict[str, int] = Field(description="how many, by label")


class Refused(Event):
    """This site refused a request; ``reason`` stays in the site's own journal."""

    event: Literal["refused"] = "refused"
    round: int
    code: str
    reason: str


class RecordWitnessed(Event):
    """This site countersigned a record of the coordinator's, and keeps a copy of it."""

    event: Literal["record_witnessed"] = "record_witnessed"
    run: str
    study_fingerprint: str = Field(
        "", description="fingerprint of the study that the site agreed to"
    )
    round: int
    record: str = Field(description="the line of the coordinator's journal")


class RecordDisputed(Event):
    """This site did not countersign a record; ``reason`` stays in the site's own journal."""

    event: Literal["record_disputed"] = "record_disputed"
    run: str
    round: int
    reason: str


class ModelKept(Event):
    """A site keeps the model of the study."""

    event: Literal["model_kept"] = "model_kept"
    round: int
    site: str
    sha256: str


class StudyClosed(Record):
    """All rounds are complete and the sites hold the model."""

    event: Literal["study_closed"] = "study_closed"
    rounds: int
    sites: tuple[str, ...]
    model_sha256: str
    seconds: float


class StudyFailed(Record):
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
    | RoundCountersigned
    | MetricsReleased
    | ImagesReleased
    | MeanXRaysReleased
    | Alarm
    | LeftHospital
    | WillSend
    | LabelsLeftOut
    | Refused
    | RecordWitnessed
    | RecordDisputed
    | ModelKept
    | StudyClosed
    | StudyFailed
)
