"""A run's rounds as a table on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.report import Summary

_PHASES = ("open", "train", "seal", "add")


def print_summary(summary: Summary, out: Console) -> None:
    """Print a run's rounds, its test figures, and what was noted on the way."""
    table = Table(
        box=box.SIMPLE_HEAD, caption="open to add: seconds; up, down: MB; at the median site"
    )
    for heading in ("round", "sites", "accuracy", "AUROC", *_PHASES, "up", "down"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in summary.rounds:
        figures = [r.metrics.get(name) for name in ("accuracy", "macro_auroc")]
        table.add_row(
            str(r.number),
            str(len(r.sites)),
            *("–" if figure is None else f"{figure:.3f}" for figure in figures),
            *(f"{r.seconds[phase]:.1f}" for phase in _PHASES),
            f"{r.bytes_up / 1e6:.1f}",
            f"{r.bytes_down / 1e6:.1f}",
        )
    out.print(table)
    if summary.test:
        accuracy, images = summary.test["accuracy"], summary.test["images"]
        out.print(f"test: accuracy {accuracy:.3f} on {images} images that no site trained on")
    if summary.hidden_share:
        share = 100 * summary.hidden_share
        out.print(f"{share:.0f} % of the sites' encryption and decryption ran beside training")
    for note in summary.notes:
        out.print(f"note: {note}")
