from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)
from torch import nn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassSpecificity,
)

from ppfl.errors import DataError, MalformedMessageError, ModelError, NotFiniteError
from ppfl.learning.images import ImageSet
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.models import build_model
from ppfl.learning.prediction import evaluate, predict

NAMES = ("COVID", "Normal", "Viral_Pneumonia")
HALF = (0.5, 0.5)


def predictions(
    count: int, *, classes: int = 3, skill: float = 1.5, sureness: float = 1, seed: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + skill * (labels[:, None] == np.arange(classes))
    probabilities = torch.tensor(sureness * logits, dtype=torch.float32).softmax(dim=1).numpy()
    return probabilities, labels


def exact_auroc(p: NDArray[np.floating[Any]], y: NDArray[np.int64]) -> list[float]:
    metric = MulticlassAUROC(p.shape[1], average=None)
    areas: list[float] = metric(torch.tensor(p), torch.tensor(y)).tolist()
    return areas


def aurocs(p: NDArray[np.float32], y: NDArray[np.int64]) -> list[float]:
    counts = EvaluationCounts.from_predictions(p, y)
    figures = compute_metrics(counts, [str(i) for i in range(p.shape[1])])
    return [c.auroc for c in figures.classes.values()]


def same(first: EvaluationCounts, second: EvaluationCounts) -> bool:
    pairs = zip(first.as_arrays().items(), second.as_arrays().items(), strict=True)
    return all(n == m and np.array_equal(a, b) for (n, a), (m, b) in pairs)


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(2, 6), st.lists(st.integers(0, 200)), st.integers(0, 99))
def test_the_shards_counts_add_up_to_those_of_the_pool(
    count: int, classes: int, cuts: list[int], seed: int
) -> None:
    probabilities, labels = predictions(count, classes=classes, seed=seed)
    order = np.random.default_rng(seed).permutation(count)
    total = EvaluationCounts.empty(classes)
    for shard in np.split(order, sorted(min(cut, count) for cut in cuts)):
        total += EvaluationCounts.from_predictions(probabilities[shard], labels[shard])
    pooled = EvaluationCounts.from_predictions(probabilities, labels)
    assert same(total, pooled)
    names = [str(i) for i in range(classes)]
    assert compute_metrics(total, names).to_dict() == compute_metrics(pooled, names).to_dict()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("skill", [0.0, 1.5, 6.0])
def test_the_figures_are_those_of_torchmetrics_on_pooled_images(classes: int, skill: float) -> None:
    p, y = predictions(2000, classes=classes, skill=skill)
    figures = compute_metrics(EvaluationCounts.from_predictions(p, y), [*map(str, range(classes))])
    given = torch.tensor(p), torch.tensor(y)

    assert figures.macro_auroc == pytest.approx(MulticlassAUROC(classes)(*given).item(), abs=1e-3)
    confusion = MulticlassConfusionMatrix(classes)(*given).tolist()
    assert [list(row) for row in figures.confusion] == confusion
    accuracy = MulticlassAccuracy(classes, average="micro")(*given).item()
    assert figures.accuracy == pytest.approx(accuracy, abs=1e-6)
    ece = MulticlassCalibrationError(classes, n_bins=15)(*given).item()
    assert figures.ece == pytest.approx(ece, abs=1e-5)
    for kind, name in ((MulticlassAccuracy, "sensitivity"), (MulticlassSpecificity, "specificity")):
        expected = kind(classes, average=None)(*given).tolist()
        assert [getattr(c, name) for c in figures.classes.values()] == pytest.approx(expected)


@pytest.mark.parametrize("skill", [0.0, 1.5, 4.0])
def test_the_figures_are_near_scikit_learns_exact_ones(skill: float) -> None:
    p, y = predictions(2000, skill=skill)
    figures = compute_metrics(EvaluationCounts.from_predictions(p, y), NAMES)
    for index, metrics in enumerate(figures.classes.values()):
        assert metrics.auroc == pytest.approx(roc_auc_score(y == index, p[:, index]), abs=1e-3)
        assert metrics.images == (y == index).sum()
    wide = p.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    assert figures.images == 2000
    assert figures.loss == pytest.approx(log_loss(y, wide), abs=1e-5)
    assert figures.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    brier = brier_score_loss(y, wide, scale_by_half=False)
    assert figures.brier == pytest.approx(brier, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("skill", [0.2, 1.5, 2.5])
@pytest.mark.parametrize("sureness", [0.1, 0.3, 1, 5, 30])
def test_the_auroc_is_torchmetrics_exact_one_for_sure_and_unsure_models(
    classes: int, skill: float, sureness: float
) -> None:
    p, y = predictions(5000, classes=classes, skill=skill, sureness=sureness)
    assert aurocs(p, y) == pytest.approx(exact_auroc(p, y), abs=1e-3)


@pytest.mark.parametrize("doubt", [1e-6, 1e-7, 0])
def test_the_auroc_of_saturated_probabilities(doubt: float) -> None:
    p, y = predictions(5000, sureness=10)
    p = np.minimum(p, np.float32(1 - doubt))
    assert (p == p.max()).mean() > 0.1
    assert aurocs(p, y) == pytest.approx(exact_auroc(p, y), abs=1e-3)


def test_scores_in_one_bin_are_equal_and_no_other_error_is_made() -> None:
    p, y = predictions(200, sureness=0.01)
    rank = np.arange(200)
    bins = [
        [
            rank @ EvaluationCounts.from_predictions(q[None], np.array([0])).scores.sum(axis=1)[c]
            for c in range(3)
        ]
        for q in p
    ]
    assert aurocs(p, y) == pytest.approx(exact_auroc(np.array(bins) / 200, y), abs=1e-6)


def test_the_bins_are_those_documented() -> None:
    steps = np.linspace(math.asinh(-1000), math.asinh(200), 199)
    edges = torch.tensor(0.1 * np.sinh(steps) - math.log(2)).sigmoid().float().numpy()
    edges = edges[edges < 1]
    for values, reached in ((edges, 1), (np.nextafter(edges, np.float32(0)), 0)):
        p = np.stack([values] * 3, axis=1)
        scores = EvaluationCounts.from_predictions(p, np.zeros(len(p), np.int64)).scores
        assert np.repeat(np.arange(200), scores[0, 1]).tolist() == [
            i + reached for i in range(len(edges))
        ]
    ends = np.array([[0, 1, 0]], np.float32)
    scores = EvaluationCounts.from_predictions(ends, np.array([1])).scores
    assert [scores[0, 0, 0], scores[1, 1, -1], scores[2, 0, 0]] == [1, 1, 1]


def test_certain_predictions_are_bounded_and_stay_in_the_last_bin() -> None:
    p = np.array([[1, 0], [1, 0]], np.float32)
    counts = EvaluationCounts.from_predictions(p, np.array([0, 1]))
    assert counts.calibration[-1].tolist() == [2, 1, 2 * 2**20]
    assert counts.loss == 32 * 2**20
    assert counts.brier == 2 * 2**20
    assert compute_metrics(counts, "ab").ece == pytest.approx(0.5)


def test_certainty_shares_the_last_bin_where_torchmetrics_opens_a_sixteenth() -> None:
    p, y = np.array([[1, 0], [0.95, 0.05]], np.float32), np.array([1, 0])
    ece = compute_metrics(EvaluationCounts.from_predictions(p, y), "ab").ece
    assert ece == pytest.approx(0.975 - 0.5, abs=1e-6)
    metric = MulticlassCalibrationError(2, n_bins=15)
    assert metric(torch.tensor(p), torch.tensor(y)).item() == pytest.approx((1 + 0.05) / 2)
    below = np.minimum(p, np.nextafter(np.float32(1), np.float32(0)))
    assert ece == pytest.approx(metric(torch.tensor(below), torch.tensor(y)).item(), abs=1e-6)


def test_a_confidence_between_two_calibration_bins_is_in_the_lower() -> None:
    p = np.array([[0.6, 0.4], [np.nextafter(np.float32(0.6), np.float32(1)), 0.4]], np.float32)
    counts = EvaluationCounts.from_predictions(p, np.array([0, 0]))
    assert counts.calibration[8:10, 0].tolist() == [1, 1]


@pytest.mark.parametrize("present", [[0, 1], [2], []])
def test_absent_classes_are_none_and_left_out_of_means(present: list[int]) -> None:
    p, y = predictions(300)
    kept = np.isin(y, present)
    figures = compute_metrics(EvaluationCounts.from_predictions(p[kept], y[kept]), NAMES)
    known = [c.auroc for c in figures.classes.values() if not math.isnan(c.auroc)]
    assert len(known) == (2 if len(present) == 2 else 0)
    table = figures.to_dict()
    for index, name in enumerate(NAMES):
        assert (table["classes"][name]["sensitivity"] is None) is (index not in present)
        assert (table["classes"][name]["specificity"] is None) is (present in ([index], []))
    assert (table["macro_auroc"] is None) is (not known)
    if known:
        assert figures.macro_auroc == pytest.approx(np.mean(known))
    assert (table["accuracy"] is None) is (not present)


def test_the_table_is_json_of_the_documented_shape() -> None:
    p, y = predictions(50)
    table = compute_metrics(EvaluationCounts.from_predictions(p, y), NAMES).to_dict()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert set(table) >= {
        *("images", "accuracy", "macro_auroc", "classes", "ece", "brier", "loss", "confusion")
    }
    assert list(table["classes"]) == list(NAMES)
    for row in table["classes"].values():
        assert set(row) == {"auroc", "sensitivity", "specificity", "images"}


def test_names_must_be_as_many_as_classes() -> None:
    with pytest.raises(ValueError, match="zip"):
        compute_metrics(EvaluationCounts.empty(3), ["a", "b"])


def test_counts_as_arrays_come_back() -> None:
    counts = EvaluationCounts.from_predictions(*predictions(40))
    arrays = counts.as_arrays()
    assert list(arrays) == ["confusion", "scores", "calibration", "loss", "brier"]
    assert {n: a.shape for n, a in arrays.items()} == {
        "confusion": (3, 3),
        "scores": (3, 2, 200),
        "calibration": (15, 3),
        "loss": (),
        "brier": (),
    }
    assert all(a.dtype == np.int64 for a in arrays.values())
    assert same(EvaluationCounts.from_arrays(arrays), counts)


def flawed(case: str) -> dict[str, NDArray[Any]]:
    arrays = dict(EvaluationCounts.from_predictions(*predictions(40)).as_arrays())
    match case:
        case "missing":
            del arrays["loss"]
        case "extra":
            arrays["more"] = np.zeros(1, np.int64)
        case "shape":
            arrays["scores"] = arrays["scores"][:, :, 1:]
        case "scalar":
            arrays["confusion"] = np.array(3, np.int64)
        case "type":
            arrays["brier"] = arrays["brier"].astype(np.float64)
        case "negative":
            arrays["calibration"] = -arrays["calibration"]
        case "scores":
            arrays["scores"] = arrays["scores"] * 2
        case "calibration":
            arrays["calibration"] = arrays["calibration"] * 2
    return dict(arrays)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "expected counts"),
        ("extra", "expected counts"),
        ("shape", r"scores: expected int64 of shape \(3, 2, 200\), got int64 of \(3, 2, 199\)"),
        ("scalar", "confusion: expected int64 of shape"),
        ("type", r"brier: expected int64 of shape \(\), got float64"),
        ("negative", "calibration: a count is negative"),
        ("scores", "not of one set of images"),
        ("calibration", "not of one set of images"),
    ],
)
def test_arrays_that_are_no_counts(case: str, message: str) -> None:
    with pytest.raises(MalformedMessageError, match=message):
        EvaluationCounts.from_arrays(flawed(case))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class(label: int) -> None:
    p, _ = predictions(2)
    with pytest.raises(DataError, match=r"outside \[0, 3\)"):
        EvaluationCounts.from_predictions(p, np.array([0, label]))


def network(classes: int = 3) -> nn.Module:
    return build_model("shufflenet_v2_x0_5", classes=classes, seed=1)


def image_set(count: int) -> ImageSet:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, 32, 32), dtype=np.uint8)
    images.flags.writeable = False
    return ImageSet(images, rng.integers(0, 3, count))


def test_evaluation_counts_what_is_predicted() -> None:
    data, model = image_set(11), network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    p = predict(model.train(), data.images, normalisation=HALF, batch_size=4)
    assert p.shape == (11, 3)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    counts = evaluate(model, data, classes=3, normalisation=HALF, batch_size=4)
    assert same(counts, EvaluationCounts.from_predictions(p, data.labels))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_predictions_are_those_of_the_model_itself() -> None:
    data, model = image_set(5), network()
    x = torch.tensor(data.images).float() / 255
    expected = model.eval()(((x - 0.5) / 0.5)[:, None].repeat(1, 3, 1, 1)).softmax(1)
    got = predict(model, data.images, normalisation=HALF)
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-5)


def test_no_images_are_no_trouble() -> None:
    counts = evaluate(network(), image_set(0), classes=3, normalisation=HALF)
    assert same(counts, EvaluationCounts.empty(3))
    assert predict(network(), image_set(0).images, normalisation=HALF).shape == (0, 3)


def test_a_model_of_other_classes() -> None:
    with pytest.raises(ModelError, match="expected a model of 3 classes, got 4"):
        evaluate(network(4), image_set(2), classes=3, normalisation=HALF)


def test_a_model_that_answers_nan() -> None:
    model = network()
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)  # type: ignore[operator,union-attr]
    with pytest.raises(NotFiniteError, match="answers with NaN"):
        evaluate(model, image_set(2), classes=3, normalisation=HALF)
