"""The page of `ppfl compare-methods`: ways to train on hospitals that differ, side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ppfl.errors import RunError
from ppfl.report.estimate import Estimate
from ppfl.report.templates import render
from ppfl.report.training import local_work

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CellFigures(BaseModel):
    """What a training came to, on all sites' test images of patients whom nobody trained on.

    ``accuracy`` asks about each image the model of the site that holds it; ``everywhere`` asks
    about every image every site's model, and is the mean over the sites: where all have one model
    the two are one, and a model that answers its own hospital's class is found out.
    ``worst_site`` is empty where no site has test images enough.

    ``right`` has a digit for each image, 1 where ``accuracy``'s answer is right; ``models_right``
    says how many sites' models are. Images of one patient stand together, ``patients`` says how
    many there are of each; ``tests_sha256`` is the same for the same images in this order.

    ``bytes_up`` are those that the median site sends in all rounds; ``minutes`` are wall time,
    without pauses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    rounds: int
    local_epochs: int
    local_steps: int = 0  # in place of epochs
    sites: int
    accuracy: Estimate
    everywhere: Estimate
    macro_auroc: float | None
    worst_site: str
    worst_accuracy: Estimate | None
    minutes: float
    bytes_up: int
    protection: str
    tests_sha256: str
    patients: tuple[int, ...]
    right: str
    models_right: tuple[int, ...]


class CellResult(BaseModel):
    """One method in one scenario from one seed: its figures, or the sentence it failed with.

    ``settings_sha256`` and ``data_sha256`` are of the scenario and of the table of X-rays, without
    any place on a machine and without what is drawn anew in every run; ``weights_sha256`` is of the
    file of pretrained weights, empty where there is none, or where an earlier version did not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    method: str
    name: str
    scenario: str
    seed: int
    settings_sha256: str
    data_sha256: str
    weights_sha256: str = ""
    failure: str = ""
    figures: CellFigures | None = None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method in a scenario, over all seeds, as text; what is not known is a dash."""

    scenario: str
    name: str
    seeds: str
    accuracy: str
    everywhere: str
    macro_auroc: str
    worst: str
    megabytes: str
    minutes: str
    sites: str
    test_images: str
    training: str
    failures: tuple[str, ...]


def method_rows(results: Sequence[CellResult]) -> list[MethodRow]:
    """A row for each method in each scenario, in the order in which they come."""
    cells: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        cells.setdefault((result.scenario, result.method), []).append(result)
    return [_row(some) for some in cells.values()]


def write_methods(
    folder: Path, results: Sequence[CellResult], *, title: str, findings: Sequence[str]
) -> None:
    """Write ``methods.csv``, ``methods.html`` and ``methods.svg``; no patient is in them.

    ``findings`` are sentences that the page ends with.

    Raises:
        RunError: a file cannot be written.
    """
    figure = _figure(results)
    page = render(
        "methods.html.j2",
        title=title,
        scenarios=list(dict.fromkeys(result.scenario for result in results)),
        rows=method_rows(results),
        findings=findings,
        figure=figure[figure.index("<svg") :],
    )
    try:
        for name, text in (("csv", _csv(results)), ("html", page), ("svg", figure)):
            (folder / f"methods.{name}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror}") from None


def _row(cells: Sequence[CellResult]) -> MethodRow:
    found = [cell.figures for cell in cells if cell.figures]
    worst = [figures.worst_accuracy for figures in found if figures.worst_accuracy]
    at = {figures.worst_site for figures in found if figures.worst_site}
    aurocs = [figures.macro_auroc for figures in found if figures.macro_auroc is not None]
    sent = [figures.bytes_up / 1e6 for figures in found if figures.bytes_up]

    def all_of(tell: Callable[[CellFigures], str]) -> str:
        return ", ".join(dict.fromkeys(map(tell, found))) or "–"

    return MethodRow(
        scenario=cells[0].scenario,
        name=cells[0].name,
        seeds=", ".join(str(cell.seed) for cell in cells),
        accuracy=_over_seeds([figures.accuracy for figures in found]),
        everywhere=_over_seeds([figures.everywhere for figures in found]),
        macro_auroc=_spread(aurocs, ".3f"),
        worst=_over_seeds(worst) + (f" ({', '.join(sorted(at))})" if at else ""),
        megabytes=f"{fmean(sent):.1f}" if sent else "–",
        minutes=f"{fmean(figures.minutes for figures in found):.1f}" if found else "–",
        sites=all_of(lambda figures: str(figures.sites)),
        test_images=all_of(lambda figures: str(len(figures.right))),
        training=all_of(_training),
        failures=tuple(f"seed {cell.seed}: {cell.failure}" for cell in cells if cell.failure),
    )


def _training(figures: CellFigures) -> str:
    work = local_work(figures.local_epochs, figures.local_steps)
    return f"{figures.size} px, {figures.rounds} × {work}"


def _over_seeds(estimates: Sequence[Estimate]) -> str:
    """In percent: of one seed with its interval, of several the mean and how far they spread."""
    if len(estimates) == 1:
        return estimates[0].percent()
    return _spread([100 * estimate.value for estimate in estimates], ".1f")


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    mean = format(fmean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{form}} to {max(values):{form}})"


_INTERVALS = ("accuracy", "everywhere", "worst_accuracy")
_PLAIN = (
    *("macro_auroc", "worst_site", "bytes_up", "minutes", "sites", "size", "rounds"),
    "local_epochs",
    "local_steps",
)


def _csv(results: Sequence[CellResult]) -> str:
    """A line for each cell; one that failed has its sentence and no figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")]
    last = ("test_images", "settings_sha256", "data_sha256", "failure")
    writer.writerow(["scenario", "method", "seed", *ends, *_PLAIN, *last])
    for r in results:
        intervals = [getattr(r.figures, name, None) for name in _INTERVALS]
        figures = [getattr(i, end, "") for i in intervals for end in ("value", "low", "high")]
        plain = [getattr(r.figures, name, "") for name in _PLAIN]
        images = len(r.figures.right) if r.figures else ""
        told = (images, r.settings_sha256, r.data_sha256, r.failure)
        writer.writerow([r.scenario, r.method, r.seed, *figures, *plain, *told])
    return text.getvalue()


def _figure(results: Sequence[CellResult]) -> str:
    """Accuracies, the mean over seeds: methods down, scenarios across; as SVG."""
    from matplotlib.figure import Figure  # as in page.py

    scenarios = list(dict.fromkeys(result.scenario for result in results))
    methods = list(dict.fromkeys(result.name for result in results))
    size = (2.6 + 2.2 * len(scenarios), 1.6 + 0.34 * len(methods))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)

    def draw(axes: Axes, heading: str, of: Callable[[CellFigures], Estimate | None]) -> None:
        found: dict[tuple[str, str], list[float]] = {}
        for result in results:
            if result.figures and (estimate := of(result.figures)):
                found.setdefault((result.name, result.scenario), []).append(100 * estimate.value)
        means = {place: fmean(values) for place, values in found.items()}
        values = [[means.get((m, s), float("nan")) for s in scenarios] for m in methods]
        axes.imshow(values, cmap="cividis", aspect="auto")
        middle = (min(means.values()) + max(means.values())) / 2 if means else 0.0
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value == value:  # no NaN
                    colour = "white" if value < middle else "black"
                    axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(scenarios)), scenarios, rotation=40, ha="right")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_title(heading, fontsize=10)

    draw(panels[0], "own tests, %", lambda figures: figures.accuracy)
    draw(panels[1], "all sites' tests, %", lambda figures: figures.everywhere)
    draw(panels[2], "worst site, %", lambda figures: figures.worst_accuracy)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
