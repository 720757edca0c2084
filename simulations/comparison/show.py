"""A comparison as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ppfl.report import Comparison
from ppfl.report.comparison import Difference, Place
from simulations.tables import figure_table


def print_comparison(comparison: Comparison, out: Console) -> None:
    """Print accuracies and differences by place and class, models abroad, and warnings.

    In brackets are 95 % intervals. Differences are the federation's figure minus the other's.
    """
    for place in comparison.places:
        out.print(_place(place))
        if place.others and place.told_classes:
            out.print(_classes(place))
    if comparison.abroad:
        out.print(_abroad(comparison))
    if comparison.elsewhere:
        out.print(_elsewhere(comparison))
    if comparison.same_model_in_plaintext is not None:
        same = comparison.same_model_in_plaintext
        models = "the same models, bit for bit" if same else "other models: was a site away?"
        out.print(f"without encryption the federation ends in {models}")
    for warning in comparison.warnings:
        out.print(f"warning: {warning}", style="bold")


def _place(place: Place) -> Table:
    title = f"{place.title}: {place.images} images of {place.patients} patients"
    table = figure_table(title, "accuracy, %", "better by, points", "macro AUROC")
    ours = place.federated
    table.add_row("the federation", ours.accuracy.percent(), "", _three(ours.macro_auroc))
    for other in place.others:
        figures = other.tested.accuracy.percent(), _points(other.accuracy)
        table.add_row(other.title, *figures, _three(other.tested.macro_auroc))
    return table


def _classes(place: Place) -> Table:
    table = figure_table(
        "the federation better by", "sensitivity, points", "AUROC, points", "p (DeLong)"
    )
    for other in place.others:
        for name in place.told_classes:
            auroc = other.auroc[name]
            figures = _points(other.sensitivity[name]), _points(auroc)
            table.add_row(f"{other.title}, {name}", *figures, _p(auroc))
    return table


def _abroad(comparison: Comparison) -> Table:
    sites = comparison.sites
    table = figure_table("accuracy, %, tested at", *(place.name for place in sites))
    ours = (f"{100 * place.federated.accuracy.value:.1f}" for place in sites)
    table.add_row("the federation's model", *ours)
    for trained_at, found in comparison.abroad_accuracy.items():
        cells = (found.get(place.name) for place in sites)
        row = ("" if cell is None else f"{100 * cell.value:.1f}" for cell in cells)
        table.add_row(f"{trained_at}'s own model", *row)
    return table


def _elsewhere(comparison: Comparison) -> Table:
    headings = ("images", "its own model, %", "the federation, %", "better by, points")
    table = figure_table("on all other sites' tests", *headings)
    for row in comparison.elsewhere:
        accuracies = row.accuracy.percent(), row.federated.percent()
        table.add_row(row.trained_at, str(row.images), *accuracies, _points(row.difference))
    return table


def _points(difference: Difference | None) -> str:
    return "–" if difference is None else difference.estimate.percent(signed=True)


def _p(difference: Difference | None) -> str:
    if difference is None or difference.p is None:
        return "–"
    return "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"


def _three(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"
