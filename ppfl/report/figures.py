"""The figures of a run's report, as SVG files; every colour is told apart by shape, too."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ppfl.learning.intervals import share_interval
from ppfl.learning.released_counts import SPECIFICITIES
from ppfl.report.results import ClassResult, Results
from ppfl.report.summary import PHASES, Round

# Okabe and Ito's colours without the yellow one, which is too pale on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKS = "osD^vPX"
_HATCHES = ("", "//", "", "..", "xx")
MOST_CURVES = len(_COLOURS)
"""How many classes one figure shows; more could not be told apart."""
MOST_CELLS = 12
"""Classes of which a confusion matrix can still be read."""


def draw_training(rounds: Sequence[Round], classes: Sequence[str]) -> bytes:
    """Accuracy and mean AUROC by round, and the AUROC of the first ``MOST_CURVES`` classes."""
    with _figure((9, 3.6), columns=2) as (file, (left, right)):
        numbers = [r.number for r in rounds]
        for place, (name, label) in enumerate(
            (("accuracy", "accuracy"), ("macro_auroc", "mean AUROC of the classes"))
        ):
            _line(left, numbers, [r.metrics.get(name) for r in rounds], label, place)
        for place, label in enumerate(classes[:MOST_CURVES]):
            tables = [r.metrics.get("classes", {}).get(label, {}) for r in rounds]
            _line(right, numbers, [table.get("auroc") for table in tables], label, place)
        for axes, title in ((left, "all classes"), (right, "AUROC of each class")):
            axes.set(xlabel="round", ylim=(0, 1.03), title=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel("on validation images, 0 to 1")
            axes.legend(loc="lower right")
    return file.getvalue()


def draw_roc(classes: Sequence[ClassResult]) -> bytes:
    """The curves of the first ``MOST_CURVES`` classes; points that were released are marked."""
    with _figure((6.4, 5.6)) as (file, (axes,)):
        axes.plot((0, 1), (0, 1), color="#767676", linewidth=0.8, linestyle=":", label="chance")
        for specificity in SPECIFICITIES:
            axes.axvline(1 - specificity, color="#d0d7de", linewidth=0.8, zorder=0)
        for place, each in enumerate(classes[:MOST_CURVES]):
            if each.roc:
                label = f"{each.name}: {each.roc.auroc.value:.3f}"
                points = (each.roc.false_positive, each.roc.true_positive)
                _line(axes, *points, label, place)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity", aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="lower right", title="AUROC")
    return file.getvalue()


def draw_confusion(results: Results) -> bytes:
    """Images by true and predicted class; a row's colours are shares of the row."""
    table = np.asarray(results.confusion)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names = [each.name for each in results.classes]
    side = 2.6 + 0.75 * len(names)
    with _figure((side + 0.6, side), grid=False) as (file, (axes,)):
        shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            text = f"{table[row, column]}\n{100 * share:.0f} %"
            colour = "white" if share > 0.55 else "#1b1f24"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="what the model says", ylabel="the label")
        bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
        bar.set_label("share of the label's images")
    return file.getvalue()


def draw_calibration(bins: Sequence[tuple[float, int, int]]) -> bytes:
    """How often the model is right against how sure it is, and how many images that is."""
    with _figure((6.4, 5.6), rows=2, heights=(3, 1)) as (file, (axes, below)):
        sure = [confidence for confidence, _, _ in bins]
        right = [share_interval(hits, images) for _, images, hits in bins]
        values = [each.value for each in right]
        reach = [
            [each.value - each.low for each in right],
            [each.high - each.value for each in right],
        ]
        axes.plot((0, 1), (0, 1), color="#767676", linewidth=0.8, linestyle=":", label="calibrated")
        axes.errorbar(sure, values, np.abs(reach), fmt="o-", color=_COLOURS[0], capsize=3)
        axes.set(ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.03))
        below.bar(sure, [images for _, images, _ in bins], width=0.02, color=_COLOURS[0])
        below.set(xlabel="mean probability of the predicted class", ylabel="images", xlim=(0, 1.02))
        below.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        for each in (axes, below):
            each.xaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="upper left")
    return file.getvalue()


def draw_cost(rounds: Sequence[Round]) -> bytes:
    """Seconds of each phase, and megabytes, by round, at the median site."""
    with _figure((9, 3.6), columns=2) as (file, (left, right)):
        numbers = [r.number for r in rounds]
        apart = min(np.diff(numbers), default=1)  # of a long study not every round is drawn
        base = np.zeros(len(rounds))
        for place, phase in enumerate(PHASES):
            heights = np.asarray([r.seconds[phase] for r in rounds])
            left.bar(
                numbers,
                heights,
                width=0.8 * apart,
                bottom=base,
                label=phase,
                color=_COLOURS[place],
                hatch=_HATCHES[place],
                edgecolor="white",
                linewidth=0,
            )
            base += heights
        for side, name, field in ((-1, "sent", "bytes_up"), (1, "received", "bytes_down")):
            up = field == "bytes_up"
            right.bar(
                [number + 0.2 * apart * side for number in numbers],
                [getattr(r, field) / 1e6 for r in rounds],
                width=0.4 * apart,
                label=name,
                color=_COLOURS[not up],
                hatch="" if up else "//",
                edgecolor="white",
                linewidth=0,
            )
        left.set(xlabel="round", ylabel="seconds")
        right.set(xlabel="round", ylabel="MB")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(y=0.25)
            axes.legend(ncols=3, loc="upper left")
    return file.getvalue()


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float | None],
    label: str,
    place: int,
) -> None:
    known = [math.nan if value is None else value for value in y]
    axes.plot(
        x,
        known,
        color=_COLOURS[place],
        linestyle=_DASHES[place],
        marker=_MARKS[place] if len(x) <= 60 else None,
        markersize=4,
        label=label,
    )


@contextmanager
def _figure(
    size: tuple[float, float],
    *,
    rows: int = 1,
    columns: int = 1,
    heights: tuple[int, ...] | None = None,
    grid: bool = True,
) -> Iterator[tuple[io.BytesIO, list[Axes]]]:
    """Axes to draw on, and the file in which the figure is afterwards; equal data, equal bytes."""
    with rc_context({"svg.hashsalt": "ppfl", "font.size": 10, "axes.titlesize": 10}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
            each.set_axisbelow(True)
            if grid:
                each.grid(alpha=0.3)
        file = io.BytesIO()
        yield file, axes
        figure.savefig(file, format="svg", metadata={"Date": None})
