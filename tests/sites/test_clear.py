"""What a site tells in the clear comes from a stranger until its form was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from ppfl.errors import MalformedMessageError
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.released_counts import ReleasedCounts
from ppfl.settings import SiteFile
from sites.messages import read_answer, write_answer
from sites.requests import Answer
from sites.totals import Totals
from tests.report.runs import CLASSES, FLOOR, SITES, STUDY, evaluated, predictions

_FIGURES = compute_metrics(evaluated(300), CLASSES).to_dict()
_COUNTS = ReleasedCounts.of(evaluated(300), floor=FLOOR).to_dict()
_OF_CLASS = _FIGURES["classes"][CLASSES[0]]


def _read_back(figures: dict[str, Any]) -> Any:
    content = write_answer("harbour", Answer(released={"test": _FIGURES}))
    clear = json.loads(str(content.config_records["answer"]["clear"]))
    clear["released"]["test"] = figures
    content["answer"] = ConfigRecord({"clear": json.dumps(clear)})
    return read_answer(RecordDict(dict(content)))


@pytest.mark.parametrize(
    "figures",
    [
        _FIGURES,
        _FIGURES | {"counts": _COUNTS},
        _FIGURES | {"macro_auroc": None, "classes": {}, "confusion": []},
    ],
)
def test_figures_come_as_they_were_told(figures: dict[str, Any]) -> None:
    _, answer = _read_back(figures)
    assert answer.released == {"test": figures}


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"accuracy": 0.9},
        _FIGURES | {"accuracy": "x"},
        _FIGURES | {"accuracy": 1.5},
        _FIGURES | {"loss": float("inf")},
        _FIGURES | {"images": -1},
        _FIGURES | {"images": 3.5},
        _FIGURES | {"classes": 5},
        _FIGURES | {"classes": {CLASSES[0]: _OF_CLASS | {"auroc": "<b>"}}},
        _FIGURES | {"confusion": [["a"]]},
        _FIGURES | {"counts": {"confusion": []}},
        _FIGURES | {"patient": "Smith"},
    ],
)
def test_no_other_form_of_figures_is_read(figures: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessageError):
        _read_back(figures)


@pytest.mark.parametrize("rare", [0, FLOOR - 1, FLOOR])
def test_no_figure_from_which_a_class_of_few_images_could_be_had_leaves(
    rare: int, tmp_path: Path
) -> None:
    probabilities, labels = predictions(300)
    chosen = (labels != 2) | (np.cumsum(labels == 2) <= rare)
    counts = EvaluationCounts.from_predictions(probabilities[chosen], labels[chosen])
    site = SiteFile(name=SITES[0], data=tmp_path, work=tmp_path)
    told = Totals(site, STUDY)._release("test", counts.as_arrays())["test"]
    assert told["images"] == chosen.sum()
    assert told["accuracy"] > 0
    by_class = ("classes", "confusion", "balanced_accuracy", "macro_auroc")
    assert [bool(told[name]) for name in by_class] == [rare != FLOOR - 1] * 4
