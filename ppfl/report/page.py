"""One self-contained page about a run."""

from __future__ import annotations

import io
from pathlib import Path

from ppfl.errors import RunError
from ppfl.federation import read_journal
from ppfl.federation.journal import LeftHospital
from ppfl.report.summary import PHASES, Summary, summarise
from ppfl.report.templates import render


def write_report(folder: Path) -> None:
    """Write ``report.html`` and ``metrics.csv`` into a run's folder, from its journal.

    Raises:
        RunError: there is no journal, a line of it is no event, or the disk is full.
    """
    events = read_journal(folder / "journal.jsonl")
    summary = summarise(events)
    items = {}
    for journal in sorted(folder.glob("sites/*/work/journal.jsonl")):
        for event in read_journal(journal):
            if isinstance(event, LeftHospital):
                for item in event.items:
                    items[item.what] = item
    page = render(
        "report.html.j2",
        summary=summary,
        phases=PHASES,
        curves=_curves(summary),
        left=list(items.values()),
    )
    try:
        (folder / "metrics.csv").write_text(summary.to_csv(), encoding="utf-8")
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror}") from None


def _curves(summary: Summary) -> str:
    """Accuracy and AUROC by round, and what a round's time went into, as SVG."""
    # matplotlib is half of what the dashboard, which draws nothing by it, would have to load
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [r.number for r in summary.rounds]
    for name, label in (("accuracy", "accuracy"), ("macro_auroc", "macro AUROC")):
        left.plot(numbers, [r.metrics.get(name) for r in summary.rounds], "o-", label=label)
    left.set(xlabel="round", ylabel="on all sites' validation images", ylim=(0, 1.02))
    left.legend()
    base = [0.0] * len(numbers)
    for phase in PHASES:
        heights = [r.seconds[phase] for r in summary.rounds]
        right.bar(numbers, heights, bottom=base, label=phase)
        base = [a + b for a, b in zip(base, heights, strict=True)]
    right.set(xlabel="round", ylabel="seconds at the median site")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
