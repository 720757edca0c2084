"""The report, as it is for finished, broken and odd runs."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.errors import DiskFullError, RunError
from ppfl.federation import Journal
from ppfl.federation.journal import (
    Alarm,
    Event,
    LeftHospital,
    LeftItem,
    MeanXRaysReleased,
    MetricsReleased,
    SiteAnswered,
    SiteFailed,
    StudyFailed,
)
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.released_counts import ReleasedCounts
from ppfl.report import (
    COMPARISON,
    Comparison,
    Estimate,
    leave_report,
    summarise,
    write_report,
)
from ppfl.report import comparison as compared
from ppfl.report.comparison import Abroad, Difference, Other, Place
from ppfl.report.results import final_results
from tests.coordinator.dashboard.studies import CLASSES, SITES, answered, closed, started
from tests.report.runs import STUDY, events, predictions, released, write_run


def _page(folder: Path, happened: Sequence[Event]) -> str:
    return write_report(write_run(folder, happened)).read_text(encoding="utf-8")


def test_a_finished_run_is_told_in_full(tmp_path: Path) -> None:
    page = _page(tmp_path, list(events()))
    assert not re.findall(r'(?:src|href)="(?!data:)|<script|@import|url\(', page)
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) == 5
    assert all(re.search('alt="[^"]{20,}"', picture) for picture in pictures)
    assert "1,200" in page
    assert "fewer than 20" in page  # Effusion's training images
    assert re.search(r"COVID<td>\d+<td>0\.99\d \[0\.\d+, [01]\.\d+\]<td>9\d\.\d % \[", page)
    assert "at specificity 95 %" in page
    for head in re.findall("<th[ >][^>]*", page):
        assert "scope=" in head
    assert "NaN" not in page
    assert "has not ended" not in page


def test_of_many_classes_it_is_said_which_are_drawn(tmp_path: Path) -> None:
    names = tuple(f"class-{number:02}" for number in range(14))
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(14), 30)
    odds = rng.random((420, 14)) + 2 * np.eye(14)[labels]
    found = EvaluationCounts.from_predictions(
        (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels
    )
    metrics = compute_metrics(found, names).to_dict()
    counts = ReleasedCounts.of(found, floor=20).to_dict()
    test = MetricsReleased(round=1, split="test", sites=SITES, metrics=metrics, counts=counts)
    seen = test.model_copy(update={"split": "validation", "counts": {}})
    page = _page(tmp_path, [started(classes=names), *_first_round(), seen, test])
    assert page.count("Shown are 7 of 14 classes, those of the lowest AUROC") == 2
    assert f'<th scope="row">class-03{_cells(found.confusion[3])}</tr>' in page
    assert "Confusion matrix, a row" not in page  # too many cells to be drawn
    assert "Shown are" not in _page(tmp_path / "few", list(events()))


def test_of_very_many_rounds_some_are_drawn_and_the_table_has_all(tmp_path: Path) -> None:
    page = _page(tmp_path, list(events(rounds=600)))
    assert page.count("Shown are 200 of 600 rounds.") == 2  # curves, and cost
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 601


def _first_round() -> list[Event]:
    return [*(answered(1, site) for site in SITES), closed(1)]


def _cells(row: Sequence[int]) -> str:
    return "".join(f"<td>{count}" for count in row)


def test_what_encryption_takes_of_a_round_is_said(tmp_path: Path) -> None:
    page = _page(tmp_path, [started(), *_first_round()])
    assert "Encryption took 1.9 of 20.0 s a round (9 %)" in page
    assert "integers, of which a parameter can take two" in page  # so 4 bytes each are no model's
    some = [answered(1, site) for site in SITES]
    ahead = [each.model_copy(update={"seconds": {**each.seconds, "ahead": 1.0}}) for each in some]
    page = _page(tmp_path / "ahead", [started(), *ahead, closed(1)])
    assert re.search(r"in the median round\.\s+\d+ % of the sites' encryption", page)
    plain = _page(tmp_path / "plain", [started(protection="none"), *_first_round()])
    assert "Encryption took" not in plain


def test_each_class_has_its_own_images(tmp_path: Path) -> None:
    summary = summarise(list(events()))
    found = final_results(summary)
    assert found is not None
    _, labels = predictions(600)
    images = {each.name: each.images for each in found.classes}
    assert images == dict(zip(CLASSES, np.bincount(labels).tolist(), strict=True))
    told = {name: figures["images"] for name, figures in summary.test["classes"].items()}
    assert images == told


def _comparison(study_fingerprint: str) -> Comparison:
    def tested(accuracy: float, auroc: float) -> compared.Tested:
        aurocs = dict.fromkeys(CLASSES, auroc)
        return compared.Tested(
            accuracy=_estimate(accuracy), sensitivity={}, auroc=aurocs, macro_auroc=auroc
        )

    def place(name: str, ours: float, own: float) -> Place:
        better = Difference(estimate=_estimate(ours - own))
        other = Other(
            method="local",
            trained_at=name,
            tested=tested(own, 0.84),
            accuracy=better,
            sensitivity={"COVID": Difference(estimate=_estimate(0.05))},
            auroc={
                "COVID": Difference(estimate=_estimate(0.035), p=0.0123),
                "Normal": Difference(estimate=_estimate(-0.01), p=0.0000004),
                "Effusion": None,
            },
        )
        federated = tested(ours, 0.875)
        return Place(name=name, images=200, patients=150, federated=federated, others=(other,))

    return Comparison(
        study="thorax",
        study_fingerprint=study_fingerprint,
        classes=CLASSES,
        trainings=(),
        places=(place("", 0.85, 0.8), place("harbour", 0.9, 0.8), place("north", 0.7, 0.75)),
        abroad=(
            Abroad(
                trained_at="harbour", tested_at="north", accuracy=_estimate(0.6), difference=None
            ),
        ),
        same_model_in_plaintext=True,
        warnings=("north would do better alone",),
    )


def _estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.02, high=value + 0.02)


def test_a_comparison_is_told_with_the_worst_site(tmp_path: Path) -> None:
    told = _comparison(STUDY.fingerprint())
    (tmp_path / COMPARISON).write_text(told.model_dump_json())
    page = _page(tmp_path, list(events()))
    assert "worst at north: accuracy 70.0 [68.0, 72.0] %" in page
    assert "+10.0 [+8.0, +12.0]" in page
    assert "−5.0 [−7.0, −3.0]" in page
    assert "north would do better alone" in page
    for model in ("own model", "own model of harbour", "own model of north"):
        figures = "<td>+5.0 [+3.0, +7.0]<td>0.875<td>0.840<td>+0.035 [+0.015, +0.055]<td>0.012"
        assert f'<th scope="row">COVID<td class="text">{model}{figures}</tr>' in page
    assert page.count("DeLong's test") == 1
    assert "<td>−0.010 [−0.030, +0.010]<td>&lt; 0.001</tr>" in page
    few = "<td>too few patients<td>0.875<td>0.840<td>too few patients"
    assert f'<th scope="row">Effusion<td class="text">own model{few}' in page
    assert "harbour's own<td>–<td>60.0 [58.0, 62.0]" in page
    assert "the same model, bit for bit" in page


@pytest.mark.parametrize(("same", "said"), [(False, "ends in another model"), (None, "")])
def test_another_model_without_encryption_is_a_fault(
    same: bool | None, said: str, tmp_path: Path
) -> None:
    told = _comparison(STUDY.fingerprint()).model_copy(update={"same_model_in_plaintext": same})
    (tmp_path / COMPARISON).write_text(told.model_dump_json())
    page = _page(tmp_path, list(events())[:1])
    assert said in page
    assert ("Trained once more without encryption" in page) is bool(said)


@pytest.mark.parametrize(
    ("text", "told"),
    [(_comparison("other").model_dump_json(), "holds no comparison"), ("{", "not a comparison")],
)
def test_a_comparison_of_another_study_or_a_damaged_one_is_not_shown(
    text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / COMPARISON).write_text(text)
    page = _page(tmp_path, list(events()))
    assert told in page
    assert "would do better" not in page


def test_a_journal_without_counts_says_what_is_missing(tmp_path: Path) -> None:
    page = _page(tmp_path, list(events(with_counts=False)))
    assert "ROC and calibration curves are missing" in page
    assert len(re.findall("<img ", page)) == 3
    assert "Numbers of training images were not released" in page


def test_what_is_withheld_by_class_is_explained(tmp_path: Path) -> None:
    *before, test, images, end = events()
    by_class = {"classes": {}, "confusion": [], "balanced_accuracy": None, "macro_auroc": None}
    metrics = test.metrics | by_class  # type: ignore[attr-defined]
    withheld = test.model_copy(update={"metrics": metrics, "counts": {}})
    page = _page(tmp_path, [*before, withheld, images, end])
    assert "at least one class has fewer test images" in page
    assert len(re.findall("<img ", page)) == 2


@pytest.mark.parametrize("changed", ["classes", "confusion", "accuracy", "counts"])
def test_figures_that_do_not_fit_together_are_no_end_of_the_report(
    changed: str, tmp_path: Path
) -> None:
    *before, test, images, end = events()
    assert isinstance(test, MetricsReleased)
    metrics, counts = dict(test.metrics), test.counts
    match changed:
        case "classes":
            metrics["classes"] = dict(list(metrics["classes"].items())[:-1])
        case "confusion":
            metrics["confusion"] = [[1, 2]]
        case "accuracy":
            metrics["accuracy"] = None
        case "counts":
            one = {"confusion": [[9]], "scores": [[[0, 0, 9]]], "calibration": [[0, 9, 9, 9]]}
            counts = one
    garbage = test.model_copy(update={"metrics": metrics, "counts": counts})
    assert "cannot be shown" in _page(tmp_path, [*before, garbage, images, end])


def test_a_run_that_goes_on_or_broke_off_says_so(tmp_path: Path) -> None:
    some = list(events())[:6]  # of the first round all, with its metrics
    page = _page(tmp_path / "on", some)
    assert "has not ended" in page
    assert "1 of 4 rounds are complete" in page
    failed = StudyFailed(round=1, code="quorum", sentence="too few sites")
    assert "too few sites" in _page(tmp_path / "off", [*some, failed])
    assert "No round is complete" in _page(tmp_path / "begun", some[:1])


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, list(events()))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"version":2,"ti')
    assert "95 % interval" in write_report(tmp_path).read_text()


def test_of_several_runs_the_last_is_told(tmp_path: Path) -> None:
    page = _page(tmp_path, [*events(), started(run="b2")])
    assert "holds 2 runs" in page
    assert "No round is complete" in page
    assert "study.toml is not the study" in page


def test_pictures_that_nobody_took_are_told_of_the_run_that_made_them() -> None:
    """A study makes them once; a run may begin anew before its first round is complete."""
    begun, *_ = events()
    made = MeanXRaysReleased(sites=SITES, bytes_up=5, pictures={"Normal": "abcd"})
    anew = begun.model_copy(update={"run": "b2"})
    assert summarise([begun, made, anew]).mean_xrays == made.pictures  # type: ignore[list-item]
    other = anew.model_copy(update={"study_fingerprint": "cd" * 32})
    assert summarise([begun, made, other]).mean_xrays == {}  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["metrics.csv", "report.html"])
def test_on_a_full_disk_the_last_report_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, list(events()))
    write_report(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    write = Path.write_text

    def half(path: Path, text: str, **options: Any) -> None:
        if name not in path.name:
            write(path, text, **options)
            return
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(DiskFullError):
        write_report(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_round_that_is_done_again_is_not_told_before(tmp_path: Path) -> None:
    page = _page(tmp_path, [*list(events())[:-3], started(resumed_after=1)])
    assert "1 of 4 rounds are complete" in page


def _without(happened: Sequence[Event], lost: Event) -> list[Event]:
    return [event for event in happened if event is not lost]


def test_a_round_of_which_an_answer_was_lost_is_left_out_and_named(tmp_path: Path) -> None:
    happened = list(events())
    torn = next(e for e in happened if isinstance(e, SiteAnswered) and e.round == 2)
    journal = _without(happened, torn)
    summary = summarise(journal)
    assert [r.number for r in summary.rounds] == [1, 3, 4]
    assert summary.notes == ("round 2 is left out: the journal lacks the answer of harbour",)
    assert summary.rounds[1].metrics["accuracy"] == happened[15].metrics["accuracy"]  # type: ignore[attr-defined]
    assert summary.test
    page = _page(tmp_path, journal)
    assert "round 2 is left out" in page
    again = [started(resumed_after=1), *(answered(2, site) for site in SITES), closed(2)]
    assert summarise([*journal[:11], *again]).notes == ()  # it was done again, and is whole


def test_what_was_released_of_a_round_that_is_done_again_is_forgotten() -> None:
    happened = list(events())
    last = [*happened[:21], started(resumed_after=3), *(answered(4, site) for site in SITES)]
    assert summarise(last).validation == happened[15].metrics  # type: ignore[attr-defined]
    summary = summarise([*last, closed(4)])
    assert [bool(r.metrics) for r in summary.rounds] == [True, True, True, False]
    assert summary.validation == {}
    assert summarise([*happened, started(resumed_after=3)]).test == {}
    assert summarise([*happened, started(resumed_after=3)]).counts == {}


def test_a_report_that_fails_does_not_hide_why_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise KeyError("x")

    leave_report(tmp_path)
    assert "the report was not written" in caplog.text
    assert "no run has begun here" in caplog.text
    write_run(tmp_path, list(events())[:1])
    monkeypatch.setattr("ppfl.report.page.render", broken)
    caplog.clear()
    leave_report(tmp_path)
    assert "KeyError" in caplog.text


def test_a_site_that_is_often_lost_and_many_alarms_are_told_in_few_lines() -> None:
    lost = [SiteFailed(round=n, site="north", code="lost", sentence="gone") for n in range(1, 91)]
    alarms = [Alarm(round=n, code="clipping", sentence=f"clipped {n}") for n in range(1, 91)]
    notes = summarise([started(), *lost, *alarms]).notes
    assert notes[0] == "north was not in the total 90 times, in rounds 1 to 90: gone"
    assert len(notes) == 22
    assert notes[1] == "round 1: clipped 1"
    assert notes[-1] == "the journal holds 70 more alarms"
    once = "round 1: north is not in it: gone"
    assert summarise([started(), lost[0]]).notes == (once,)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run has begun here"):
        write_report(tmp_path / "missing")
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(RunError, match="no run has begun in it"):
        write_report(tmp_path)
    (tmp_path / "journal.jsonl").write_text('{"version":3,"event":"study_started"}\n')
    with pytest.raises(RunError, match="journal version 3"):
        write_report(tmp_path)


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    hostile = [
        started(study="<script>x</script>"),
        released(0, "validation", EvaluationCounts.empty(3)),
    ]
    assert "<script>" not in _page(tmp_path, hostile)


def test_what_left_is_told_by_site_and_of_this_run_alone(tmp_path: Path) -> None:
    own = {name: tmp_path / "sites" / name / "work" for name in SITES[:2]}
    update = LeftItem(what="sealed vector", protection="Paillier", bytes=700, sha256="0" * 64)
    for number, (name, place) in enumerate(own.items(), start=2):
        place.mkdir(parents=True)
        journal = Journal(place / "journal.jsonl")
        for run in ["another", *["0123456789abcdef"] * number]:
            journal.write(LeftHospital(run=run, round=1, site=name, items=(update,)))
    page = _page(tmp_path, [started(run="0123456789abcdef"), *_first_round()])
    for number, name in enumerate(own, start=2):
        row = f"<td>sealed vector<td>Paillier<td>{number}<td>{700 * number:,}"
        assert f'<th scope="row">{name}{row}' in page
