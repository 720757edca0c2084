from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.released import Released
from ppfl.federation import Journal, read_journal
from ppfl.federation.journal import Alarm, ImagesReleased, MetricsReleased
from sites.requests import Answer
from tests.report.runs import STUDY


def _publish(folder: Path, **answers: Answer) -> list[Any]:
    journal = folder / "journal.jsonl"
    released = Released(STUDY, Journal(journal))
    for site, answer in answers.items():
        released.note(site, answer)
    released.publish()
    released.publish()  # once only
    return list(read_journal(journal))


def test_counts_stand_beside_the_metrics(tmp_path: Path) -> None:
    answer = Answer(
        released={"test": {"accuracy": 0.5, "counts": {"confusion": [[1]]}}}, released_round=4
    )
    (event,) = _publish(tmp_path, harbour=answer, north=answer)
    assert isinstance(event, MetricsReleased)
    assert (event.metrics, event.counts) == ({"accuracy": 0.5}, {"confusion": [[1]]})


def test_images_are_told_once_and_a_site_that_disagrees_is_named(tmp_path: Path) -> None:
    one, other = Answer(class_images={"COVID": 40, "Other": 3}), Answer(class_images={"COVID": 41})
    alarm, event = _publish(tmp_path, harbour=one, north=one, valley=other)
    assert isinstance(alarm, Alarm)
    assert alarm.code == "images-disagree"
    assert "valley" in alarm.sentence
    assert isinstance(event, ImagesReleased)
    assert event.images == {"COVID": 40}  # the study knows no other class
    assert event.sites == ("harbour", "north")
