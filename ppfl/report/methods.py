"""The page of `ppfl compare-methods`: ways to train on hospitals that differ, side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ppfl.errors import RunError
from ppfl.report.estimate import Estimate
from ppfl.report.templates import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CellResult(BaseModel):
    """One method in one scenario, tested on all sites' test images.

    Each image is tested with the model that its site would use. ``bytes_up`` are those that the
    median site sends in all rounds; ``minutes`` are wall time, without pauses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    name: str
    scenario: str
    study_fingerprint: str
    seed: int
    size: int
    rounds: int
    local_epochs: int
    sites: int
    test_images: int
    accuracy: Estimate
    macro_auroc: float | None
    worst_site: str
    worst_accuracy: Estimate
    minutes: float
    bytes_up: int
    protection: str


def write_methods(folder: Path, results: Sequence[CellResult], *, title: str) -> None:
    """Write ``methods.csv``, ``methods.html`` and ``methods.svg``; no patient is in them.

    Raises:
        RunError: a file cannot be written.
    """
    figure = _figure(results)
    page = render(
        "methods.html.j2",
        title=title,
        scenarios=list(dict.fromkeys(result.scenario for result in results)),
        results=results,
        figure=figure[figure.index("<svg") :],
    )
    try:
        for name, text in (("csv", _csv(results)), ("html", page), ("svg", figure)):
            (folder / f"methods.{name}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror}") from None


def _csv(results: Sequence[CellResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("scenario", "method", "accuracy", "accuracy_low", "accuracy_high", "macro_auroc"),
            *("worst_site", "worst_accuracy", "worst_low", "worst_high", "bytes_up", "minutes"),
            *("sites", "test_images", "size", "rounds", "local_epochs", "seed"),
            "study_fingerprint",
        ]
    )
    for r in results:
        worst = r.worst_accuracy
        writer.writerow(
            [
                *(r.scenario, r.method, r.accuracy.value, r.accuracy.low, r.accuracy.high),
                "" if r.macro_auroc is None else r.macro_auroc,
                *(r.worst_site, worst.value, worst.low, worst.high, r.bytes_up, r.minutes),
                *(r.sites, r.test_images, r.size, r.rounds, r.local_epochs, r.seed),
                r.study_fingerprint,
            ]
        )
    return text.getvalue()


def _figure(results: Sequence[CellResult]) -> str:
    """Accuracy over all sites, and at the worst one: methods down, scenarios across; as SVG."""
    from matplotlib.figure import Figure  # as in page.py

    scenarios = list(dict.fromkeys(result.scenario for result in results))
    methods = list(dict.fromkeys(result.name for result in results))
    size = (2.6 + 1.5 * len(scenarios), 1.6 + 0.34 * len(methods))
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    found = {(result.name, result.scenario): result for result in results}

    def draw(axes: Axes, heading: str, of: Callable[[CellResult], float]) -> None:
        values = [
            [100 * of(found[m, s]) if (m, s) in found else float("nan") for s in scenarios]
            for m in methods
        ]
        axes.imshow(values, cmap="cividis", aspect="auto")
        known = [value for row in values for value in row if value == value]
        middle = (min(known) + max(known)) / 2 if known else 0.0
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value == value:  # no NaN
                    colour = "white" if value < middle else "black"
                    axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(scenarios)), scenarios, rotation=40, ha="right")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_title(heading, fontsize=10)

    draw(left, "accuracy over all sites, %", lambda result: result.accuracy.value)
    draw(right, "accuracy at the worst site, %", lambda result: result.worst_accuracy.value)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
