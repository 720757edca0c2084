"""Events as sentences: for the dashboard's log, and for terminals."""

from __future__ import annotations

from typing import Literal

from ppfl.federation.journal import (
    Alarm,
    AnyEvent,
    ImagesReleased,
    LabelsLeftOut,
    LeftHospital,
    MeanXRaysReleased,
    MetricsReleased,
    ModelKept,
    RecordDisputed,
    RecordWitnessed,
    Refused,
    RoundClosed,
    RoundCountersigned,
    RoundStarted,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
    WillSend,
)

Kind = Literal["alarms", "rounds", "sites", "metrics", "study"]
KINDS: dict[str, Kind] = {
    "alarm": "alarms",
    "site_failed": "alarms",
    "site_asked_again": "alarms",
    "study_failed": "alarms",
    "refused": "alarms",
    "record_disputed": "alarms",
    "round_started": "rounds",
    "round_closed": "rounds",
    "round_countersigned": "rounds",
    "record_witnessed": "rounds",
    "site_enrolled": "sites",
    "site_answered": "sites",
    "left_hospital": "sites",
    "will_send": "sites",
    "labels_left_out": "sites",
    "metrics_released": "metrics",
    "mean_xrays_released": "metrics",
    "images_released": "metrics",
}
"""By an event's name, what it is about; all others are about the study."""


def sentence_of(event: AnyEvent) -> str:
    """An event as one sentence; its round and site stand beside it."""
    match event:
        case StudyStarted():
            return _start(event)
        case SiteEnrolled():
            return "enrolled"
        case RoundStarted():
            return f"asked {len(event.sites)} sites for updates"
        case SiteAnswered():
            spent = ", ".join(f"{name} {s:.1f} s" for name, s in event.seconds.items())
            clipped = f"; {event.clipped} parameters clipped" if event.clipped else ""
            return f"answered: {spent}; {_size(event.bytes_up)} up{clipped}"
        case SiteAskedAgain():
            return f"was lost ({event.code}), is back, and is asked again"
        case SiteFailed():
            return f"is not in the round ({event.code}): {event.sentence}"
        case RoundClosed():
            return f"closed: {len(event.sites)} sites in the total, {event.seconds:.1f} s"
        case RoundCountersigned():
            return f"countersigned the record of round {event.round}"
        case RecordWitnessed():
            return "countersigned the coordinator's record"
        case RecordDisputed():
            return f"did not countersign the coordinator's record: {event.reason}"
        case MetricsReleased():
            accuracy, images = event.metrics.get("accuracy"), event.metrics.get("images")
            found = "" if accuracy is None else f": accuracy {accuracy:.3f} on {images} images"
            return f"{event.split} metrics released by {len(event.sites)} sites{found}"
        case ImagesReleased():
            found = ", ".join(f"{count} of {name}" for name, count in event.images.items())
            return f"images that all sites train on: {found}"
        case MeanXRaysReleased():
            classes = ", ".join(event.pictures) or "no class"
            return f"mean X-rays of {classes} opened; {_size(event.bytes_up)} from each site"
        case Alarm():
            return event.sentence
        case StudyClosed():
            return f"the study closed after {event.rounds} rounds, {event.seconds:.0f} s"
        case StudyFailed():
            return f"the run ended early ({event.code}): {event.sentence}"
        case LeftHospital():
            left = ", ".join(f"{item.what} ({_size(item.bytes)})" for item in event.items)
            return f"sent {left or 'nothing'}"
        case WillSend():
            return f"will send {_size(event.study_bytes_up)} in {event.rounds} rounds"
        case LabelsLeftOut():
            labels = ", ".join(f"{label} ({images})" for label, images in event.labels.items())
            return f"leaves out X-rays of no class of the study: {labels}"
        case Refused():
            return f"refused ({event.code}): {event.reason}"
        case ModelKept():
            return f"keeps the model {event.sha256[:16]}…"


def _start(event: StudyStarted) -> str:
    """What is trained, and what it takes of each site's line, before it takes it."""
    after = f", goes on after round {event.resumed_after}" if event.resumed_after else ""
    parts = [
        f"study {event.study} began{after}: {len(event.sites)} sites, {event.rounds} rounds",
        f"an update is {event.values:,} integers",
        f"protection: {event.protection}",
        f"each site sends {_size(event.update_bytes)} and receives "
        f"{_size(event.round_bytes_down)} a round, {_size(event.study_bytes_up)} and "
        f"{_size(event.study_bytes_down)} in all",
    ]
    if event.kept_bytes:
        parts.append(f"the coordinator keeps ciphertexts: {_size(event.kept_bytes)}")
    return "; ".join(parts)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
