"""A comparison as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.report import Comparison
from ppfl.report.comparison import Difference, Other, Place

_NAMES = {"local": "own model", "pooled": "all X-rays pooled", "plaintext": "without encryption"}


def print_comparison(comparison: Comparison, out: Console) -> None:
    """Print accuracies and differences by place and by class, models abroad, and warnings."""
    out.print(_places(comparison))
    out.print(_classes(comparison))
    if comparison.abroad:
        out.print(_abroad(comparison))
    if comparison.same_model_in_plaintext:
        out.print("without encryption the federation ends in the same models, bit for bit")
    for warning in comparison.warnings:
        out.print(f"warning: {warning}", style="bold")


def _places(comparison: Comparison) -> Table:
    table = _table(
        "tested at",
        "model",
        caption="difference: the federation's minus this one's, in points; [95 %], over patients",
    )
    for heading in ("images", "accuracy, %", "difference", "macro AUROC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place in comparison.places:
        ours = place.federated
        table.add_row(
            *(place.title, "the federation's", str(place.images)),
            *(ours.accuracy.percent(), "", _three(ours.macro_auroc)),
        )
        for other in place.others:
            figures = other.tested.accuracy.percent(), _points(other.accuracy)
            table.add_row("", _name(other), "", *figures, _three(other.tested.macro_auroc))
    return table


def _classes(comparison: Comparison) -> Table:
    table = _table(
        "tested at",
        "model",
        "class",
        caption="the federation's figures minus this model's; p: DeLong's test",
    )
    for heading in ("sensitivity, points", "AUROC, points", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place in comparison.places:
        if place.name and not place.held_out:
            continue  # in comparison.json
        for other in place.others:
            for name in comparison.classes:
                auroc = other.auroc[name]
                p = "–" if auroc is None or auroc.p is None else f"{auroc.p:.3f}"
                figures = _points(other.sensitivity[name]), _points(auroc)
                table.add_row(place.title, _name(other), name, *figures, p)
    return table


def _abroad(comparison: Comparison) -> Table:
    sites: Mapping[str, Place] = {
        place.name: place for place in comparison.places if place.name and not place.held_out
    }
    table = _table("accuracy, %, tested at", caption="each site's own model on the others' images")
    for name in sites:
        table.add_column(name, justify="right", no_wrap=True)
    ours = (f"{100 * place.federated.accuracy.value:.1f}" for place in sites.values())
    table.add_row("the federation's model", *ours)
    found = {(a.trained_at, a.tested_at): a.accuracy.value for a in comparison.abroad}
    for trained_at in dict.fromkeys(a.trained_at for a in comparison.abroad):
        cells = (found.get((trained_at, name)) for name in sites)
        row = ("" if cell is None else f"{100 * cell:.1f}" for cell in cells)
        table.add_row(f"{trained_at}'s own model", *row)
    return table


def _table(*headings: str, caption: str) -> Table:
    return Table(*headings, box=box.SIMPLE_HEAD, caption=caption)


def _name(other: Other) -> str:
    name = _NAMES[other.method]
    return f"{name} of {other.trained_at}" if other.trained_at else name


def _points(difference: Difference | None) -> str:
    return "–" if difference is None else difference.estimate.percent(signed=True)


def _three(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"
