"""Runs side by side: what they came to, what they cost, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ppfl.errors import RunError
from ppfl.federation import iterate_journal
from ppfl.report import PHASES, Summary, study_of_run, summarise


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run from its folder; ``settings`` are the study's, by their dotted names.

    They are empty where the folder's study file cannot be read or is not the run's; ``notes`` say
    so.
    """

    folder: Path
    summary: Summary
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_record(folder: Path) -> RunRecord:
    """The last run in a folder's journal; one that is under way is read as far as it is.

    Raises:
        RunError: there is no run in the folder, or its journal is damaged.
    """
    journal = folder / "journal.jsonl"
    if not journal.is_file():
        raise RunError(
            f"{folder}: no run has begun here", hint="ppfl runs list shows what there is"
        )
    summary = summarise(iterate_journal(journal))
    study, why = study_of_run(folder, summary)
    if study is None:
        return RunRecord(folder, summary, {}, (f"{why}: no settings",))
    return RunRecord(folder, summary, _flat(study.model_dump(mode="json")))


def figures_of(summary: Summary) -> dict[str, float | int | str | None]:
    """What a run came to and what it cost, by name; None where it has no such figure (yet).

    Accuracy and AUROC are of the test images where the run is complete, else of the last
    round's validation images. Megabytes are of one site in all rounds, seconds those of one
    round; both at the median site, seconds in the median round. Minutes are those of the rounds.
    """
    last = summary.rounds[-1].metrics if summary.rounds else {}
    metrics = summary.test or last
    classes = metrics.get("classes", {})
    found: dict[str, float | int | str | None] = {
        "rounds": len(summary.rounds),
        "sites": len(summary.started.sites) if summary.started else None,
        "measured on": "test" if summary.test else "validation" if last else None,
        "images": metrics.get("images"),
        "accuracy": metrics.get("accuracy"),
        "macro AUROC": metrics.get("macro_auroc"),
    }
    found |= {f"AUROC of {name}": one.get("auroc") for name, one in classes.items()}
    found |= {
        "MB up": round(sum(r.bytes_up for r in summary.rounds) / 1e6, 1),
        "MB down": round(sum(r.bytes_down for r in summary.rounds) / 1e6, 1),
        "minutes": round(sum(r.total_s for r in summary.rounds) / 60, 2),
    }
    if summary.rounds:
        found["a round, s"] = round(median(r.total_s for r in summary.rounds), 2)
        for phase in PHASES:
            found[f"{phase}, s"] = round(median(r.seconds[phase] for r in summary.rounds), 2)
    found["model"] = summary.closed.model_sha256[:12] if summary.closed else None
    return found


def side_by_side(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What each table has under each name that one of them has; None: nothing."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [table.get(name) for table in tables] for name in names}


def differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows of ``side_by_side`` in which not all have the same."""
    rows = side_by_side(tables)
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
