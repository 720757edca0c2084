from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.released import Released
from ppfl.errors import MalformedMessageError
from ppfl.federation import Journal, read_journal
from ppfl.federation.journal import Alarm, ImagesReleased, MetricsReleased
from ppfl.learning.metrics import compute_metrics
from ppfl.learning.released_counts import ReleasedCounts
from sites.requests import Answer
from tests.report.runs import CLASSES, FLOOR, STUDY, evaluated

_FIGURES = compute_metrics(evaluated(300), CLASSES).to_dict()
_COUNTS = ReleasedCounts.of(evaluated(300), floor=FLOOR).to_dict()
_VALIDATED = Answer(released={"validation": _FIGURES}, released_round=3)
_TESTED = Answer(released={"test": _FIGURES | {"counts": _COUNTS}}, released_round=4)


def _publish(folder: Path, **answers: Answer) -> list[Any]:
    journal = folder / "journal.jsonl"
    released = Released(STUDY, Journal(journal))
    for site, answer in answers.items():
        released.note(site, answer)
    released.publish()
    released.publish()  # once only
    return list(read_journal(journal))


def _claims(answer: Answer, accuracy: float) -> Answer:
    released = {split: table | {"accuracy": accuracy} for split, table in answer.released.items()}
    return replace(answer, released=released)


def test_counts_stand_beside_the_metrics(tmp_path: Path) -> None:
    (event,) = _publish(tmp_path, harbour=_TESTED, north=_TESTED)
    assert isinstance(event, MetricsReleased)
    assert (event.metrics, event.counts) == (_FIGURES, _COUNTS)


def test_what_more_than_half_tell_is_recorded_and_who_disagrees_is_named(tmp_path: Path) -> None:
    alarm, event = _publish(tmp_path, valley=_claims(_TESTED, 1.0), harbour=_TESTED, north=_TESTED)
    assert isinstance(alarm, Alarm)
    assert alarm.code == "metrics-disagree"
    assert event.sites == ("harbour", "north")
    assert event.metrics == _FIGURES


def test_where_no_majority_agrees_nothing_is_taken_for_the_federations(tmp_path: Path) -> None:
    (alarm,) = _publish(tmp_path, valley=_claims(_TESTED, 1.0), harbour=_TESTED)
    assert isinstance(alarm, Alarm)


def test_what_sites_may_tell_is_taken() -> None:
    released = Released(STUDY, Journal(Path("unwritten")))
    released.check(Answer(), after=-1)
    released.check(_VALIDATED, after=3)
    released.check(_TESTED, after=4, final=True)
    few = {"validation": _FIGURES | {"classes": {}, "confusion": []}}
    released.check(replace(_VALIDATED, released=few), after=3)


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        (replace(_VALIDATED, released_round=9), False),
        (Answer(model_sha256="ab" * 32, released_round=9), False),
        (replace(_TESTED, released_round=3), False),  # test figures in the midst of the study
        (replace(_VALIDATED, released={"validation": _FIGURES | {"confusion": [[1]]}}), False),
        (replace(_VALIDATED, released={"test": _FIGURES | {"classes": {"a": {}}}}), True),
        (
            replace(
                _VALIDATED,
                released={"test": _FIGURES | {"counts": _COUNTS | {"calibration": [[0, 1, 1, 1]]}}},
            ),
            True,
        ),
    ],
)
def test_figures_of_another_model_split_or_class_are_refused(answer: Answer, final: bool) -> None:
    released = Released(STUDY, Journal(Path("unwritten")))
    with pytest.raises(MalformedMessageError):
        released.check(answer, after=3, final=final)


def test_images_are_told_once_and_a_site_that_disagrees_is_named(tmp_path: Path) -> None:
    one, other = Answer(class_images={"COVID": 40, "Other": 3}), Answer(class_images={"COVID": 41})
    alarm, event = _publish(tmp_path, harbour=one, north=one, valley=other)
    assert isinstance(alarm, Alarm)
    assert alarm.code == "images-disagree"
    assert "valley" in alarm.sentence
    assert isinstance(event, ImagesReleased)
    assert event.images == {"COVID": 40}  # the study knows no other class
    assert event.sites == ("harbour", "north")
