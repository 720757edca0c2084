"""One self-contained page about a run."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppfl.errors import MalformedMessageError, PpflError, RunError, write_error
from ppfl.federation import iterate_journal, read_events
from ppfl.federation.journal import LeftHospital
from ppfl.files import replace_private, replace_text
from ppfl.learning.released_counts import SPECIFICITIES
from ppfl.report.comparison import Comparison, read_comparison
from ppfl.report.results import REDRAW_SEED, Results, final_results, personal_rows
from ppfl.report.shortcuts import ShortcutsFound, read_shortcuts
from ppfl.report.summary import PHASES, Round, Summary, study_of_run, summarise
from ppfl.report.templates import read_style, render
from ppfl.report.training import training_sentences

_log = logging.getLogger("ppfl.report")
_MOST_ROWS = 40  # of the rounds' table; metrics.csv has all of them
_MOST_DRAWN = 250  # rounds in a figure, which needs no more to be read, but memory for each


@dataclass(frozen=True, slots=True)
class _Picture:
    """A figure of the page: an SVG file in base64, and what one cannot see of it by ear.

    ``omitted`` says what had no room in it.
    """

    svg: str
    alt: str
    omitted: str


@dataclass(slots=True)
class _Left:
    """One kind of thing that left a site: how often, and how many bytes in all."""

    site: str
    what: str
    protection: str
    times: int = 0
    bytes: int = 0


def write_report(folder: Path, *, shortcuts: Path | None = None, with_xrays: bool = False) -> Path:
    """Write ``report.html`` and ``metrics.csv`` into a run's folder, from its journal.

    A run that is under way is told as far as it is. Settings are those in ``study.toml``, if that
    is the file of which the journal has the fingerprint.

    Args:
        folder: the run's.
        shortcuts: that of ``ppfl shortcuts``, whose tables become a section.
        with_xrays: whether its Grad-CAM pictures do, too; only the owner can read the page then.

    Returns:
        Where the page is.

    Raises:
        RunError: there is no journal, no run has begun in it, a line of it is no event, the
            shortcuts were measured of another model, or the disk is full.
    """
    journal = folder / "journal.jsonl"
    if not journal.is_file():
        hint = "`ppfl runs list` shows which runs there are"
        raise RunError(f"{folder}: no run has begun here", hint=hint)
    summary = summarise(iterate_journal(journal))
    if summary.started is None:
        raise RunError(f"{journal}: no run has begun in it")
    found = read_shortcuts(shortcuts) if shortcuts else None
    if found and (not summary.closed or found.result.model_sha256 != summary.closed.model_sha256):
        raise RunError(
            f"{shortcuts}: measured of another model than this run's",
            hint="ppfl shortcuts --model RUN/sites/SITE/work/model.safetensors; a model with "
            "layers of one site is not the run's",
        )
    page = _render(folder, summary, found, with_xrays=with_xrays)
    target = folder / "report.html"
    replace_text(folder / "metrics.csv", summary.to_csv())
    if not with_xrays:
        replace_text(target, page)
        return target
    try:
        replace_private(target, [page.encode()])
    except OSError as error:
        raise write_error(f"{target}: cannot be written", error) from None
    return target


def leave_report(folder: Path) -> None:
    """Write the report as the last thing that a run does.

    If that fails it is logged: the run may be ending with an error of its own, which counts more.
    """
    try:
        write_report(folder)
    except PpflError as error:
        _log.warning("the report was not written: %s", error)
    except Exception:
        _log.exception("the report was not written")


def _render(
    folder: Path, summary: Summary, shortcuts: ShortcutsFound | None, *, with_xrays: bool
) -> str:
    notes = list(summary.notes)
    results: Results | None = None
    try:
        results = final_results(summary)
    except MalformedMessageError as error:
        notes.append(f"the released figures cannot be shown: {error}")
    study, why = study_of_run(folder, summary)
    if why:
        notes.append(f"{why}: settings are not shown")
    return render(
        "report.html.j2",
        summary=summary,
        begun=summary.started,
        study=study,
        training=training_sentences(study) if study else [],
        results=results,
        personal=personal_rows(summary),
        notes=notes,
        pictures=_pictures(summary, results),
        phases=PHASES,
        rounds=_some(summary.rounds, _MOST_ROWS),
        specificities=SPECIFICITIES,
        redraw_seed=REDRAW_SEED,
        left=_left(folder, summary.started.run) if summary.started else (),
        comparison=_comparison(folder, summary, notes),
        shortcuts=shortcuts.result if shortcuts else None,
        grad_cam=base64.b64encode(shortcuts.grad_cam).decode() if shortcuts and with_xrays else "",
        style=read_style(),
    )


def _pictures(summary: Summary, results: Results | None) -> dict[str, _Picture]:
    """The figures there is something to draw in, by name."""
    from ppfl.report import figures  # the dashboard, which draws nothing, needs no matplotlib

    found: dict[str, tuple[bytes, str]] = {}
    omitted: dict[str, str] = {}
    rounds = _some(summary.rounds, _MOST_DRAWN)
    if rounds and summary.started:
        measured = [r for r in rounds if r.metrics]
        if measured:
            last = measured[-1]
            classes = summary.started.classes
            if len(classes) > figures.MOST_CURVES:
                tables = last.metrics.get("classes", {})
                aurocs = {name: tables.get(name, {}).get("auroc") for name in classes}
                classes = tuple(sorted(classes, key=lambda name: _rank(aurocs[name])))
                omitted["training"] = _lowest(figures.MOST_CURVES, len(classes))
            drawn = figures.draw_training(measured, classes)
            alt = f"Curves by round. After round {last.number}: " + ", ".join(
                f"{label} {last.metrics[name]:.3f}"
                for name, label in (("accuracy", "accuracy"), ("macro_auroc", "mean AUROC"))
                if last.metrics.get(name) is not None
            )
            found["training"] = (drawn, alt)
        alt = "Bars by round: seconds of each phase, and megabytes; metrics.csv has them all."
        found["cost"] = (figures.draw_cost(rounds), alt)
        if len(rounds) < len(summary.rounds):
            for name in ("training", "cost"):
                told = f" Shown are {len(rounds)} of {len(summary.rounds)} rounds."
                omitted[name] = omitted.get(name, "") + told
    if results is not None:
        ranked = sorted(
            results.classes, key=lambda each: _rank(each.roc.auroc.value if each.roc else None)
        )
        if any(each.roc for each in ranked):
            alt = "ROC curves. AUROC " + ", ".join(
                f"{each.name} {each.roc.auroc.value:.3f}" for each in ranked if each.roc
            )
            found["roc"] = (figures.draw_roc(ranked), alt)
            if len(ranked) > figures.MOST_CURVES:
                omitted["roc"] = _lowest(figures.MOST_CURVES, len(ranked))
        if 0 < len(results.classes) <= figures.MOST_CELLS:
            rows = [
                f"{each.name}: {', '.join(map(str, row))}"
                for each, row in zip(results.classes, results.confusion, strict=True)
            ]
            alt = f"Confusion matrix, a row for each label: {'; '.join(rows)}"
            found["confusion"] = (figures.draw_confusion(results), alt)
        if results.counts is not None:
            bins = results.counts.reliability()
            alt = "Reliability: " + ", ".join(
                f"at {100 * sure:.0f} % sure {100 * hits / images:.0f} % right"
                for sure, images, hits in bins
            )
            found["calibration"] = (figures.draw_calibration(bins), alt)
    return {
        name: _Picture(base64.b64encode(svg).decode(), alt, omitted.get(name, ""))
        for name, (svg, alt) in found.items()
    }


def _rank(auroc: float | None) -> float:
    """By what classes are sorted, the lowest first; those of which nothing is known come last."""
    return 2.0 if auroc is None else auroc


def _lowest(shown: int, classes: int) -> str:
    return (
        f" Shown are {shown} of {classes} classes, those of the lowest AUROC; the table of "
        "performance has all."
    )


def _comparison(folder: Path, summary: Summary, notes: list[str]) -> Comparison | None:
    """How the run compares with other trainings, if that was measured and is of this study."""
    try:
        found = read_comparison(folder)
    except RunError as error:
        notes.append(str(error))
        return None
    begun = summary.started
    if found and begun and found.study_fingerprint == begun.study_fingerprint:
        return found
    return None


def _left(folder: Path, run: str) -> list[_Left]:
    """What left in a run, by site and kind, of the sites whose own journals lie in its folder."""
    found: dict[tuple[str, str], _Left] = {}
    for journal in sorted(folder.glob("sites/*/work/journal.jsonl")):
        for event in read_events(journal, LeftHospital):
            for item in event.items if event.run == run else ():
                new = _Left(event.site, item.what, item.protection)
                kind = found.setdefault((event.site, item.what), new)
                kind.times, kind.bytes = kind.times + 1, kind.bytes + item.bytes
    return list(found.values())


def _some(rounds: Sequence[Round], most: int) -> list[Round]:
    """All rounds, or so many of them, evenly, that they can be read; the last is one of them."""
    step = -(-len(rounds) // most) or 1
    return list(rounds[::-step][::-1])
