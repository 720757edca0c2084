"""What a table of methods says about each scenario: no more than its intervals do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Literal

import numpy as np

from ppfl.learning.intervals import Answers, Interval, difference_interval
from ppfl.report.methods import CellFigures, CellResult

_BASE = "fedavg"
_LOCAL = "local"
_AT_HOME = "on each site's own tests"
_FEWEST = 10  # patients; below, resamples are too few to speak of an interval

Verdict = Literal["better", "worse", "open"]


def method_findings(results: Sequence[CellResult], *, baselines: Sequence[str]) -> list[str]:
    """A sentence for each scenario in which FedAvg was measured beside another method.

    A method is better or worse where its interval lies on one side of 0 at every seed that both
    were measured at, on the same test images. ``baselines`` are keys of what is no federation, and
    no choice that one has.
    """
    return [
        _sentence(scenario, [r for r in results if r.scenario == scenario], baselines)
        for scenario in dict.fromkeys(result.scenario for result in results)
        if any(r.method == _BASE and r.figures for r in results if r.scenario == scenario)
        and any(r.method != _BASE and r.figures for r in results if r.scenario == scenario)
    ]


def _sentence(scenario: str, cells: Sequence[CellResult], baselines: Sequence[str]) -> str:
    base = {cell.seed: cell.figures for cell in cells if cell.method == _BASE}
    names = {cell.method: cell.name for cell in cells if cell.method != _BASE and cell.figures}
    measures: Mapping[str, Callable[[CellFigures], Answers]] = {
        "on all sites' tests": _everywhere,
        _AT_HOME: _own,
    }
    parts = []
    verdicts: dict[str, dict[str, Verdict]] = {method: {} for method in names}
    for where, answers in measures.items():
        told: dict[Verdict, list[str]] = {"better": [], "worse": [], "open": []}
        for method, name in names.items():
            found = [
                interval
                for cell in cells
                if cell.method == method and cell.figures
                for interval in _difference(cell, base.get(cell.seed), answers)
            ]
            verdict = verdicts[method][where] = _verdict(found)
            told[verdict].append(f"{name} ({_points(found)})" if verdict != "open" else name)
        parts.append(
            f"{where} better than FedAvg: {', '.join(told['better']) or 'none'}; worse: "
            f"{', '.join(told['worse']) or 'none'}; not told apart: "
            f"{', '.join(told['open']) or 'none'}"
        )
    chosen = [
        names[method]
        for method, found in verdicts.items()
        if method not in baselines and "better" in found.values() and "worse" not in found.values()
    ]
    advice = (
        f"This speaks for {' or '.join(chosen)}"
        if chosen
        else "This speaks for no other federation than FedAvg's"
    )
    told_parts = [part[0].upper() + part[1:] for part in parts]
    if verdicts.get(_LOCAL, {}).get(_AT_HOME) == "better":
        advice += ". On its own patients a hospital does better alone than with FedAvg"
    return f"{scenario}: {'. '.join(told_parts)}. {advice}."


def _difference(
    cell: CellResult, base: CellFigures | None, answers: Callable[[CellFigures], Answers]
) -> list[Interval]:
    """The method's accuracy minus FedAvg's, if the two can be paired."""
    ours = cell.figures
    if ours is None or base is None or ours.tests_sha256 != base.tests_sha256:
        return []
    if len(ours.patients) < _FEWEST:
        return []
    return [_interval(ours, base, answers, cell.seed)]


@lru_cache(maxsize=4096)  # a table is written after each of its cells
def _interval(
    ours: CellFigures, base: CellFigures, answers: Callable[[CellFigures], Answers], seed: int
) -> Interval:
    groups = np.repeat(np.arange(len(ours.patients)).astype(np.str_), ours.patients)
    return difference_interval(answers(ours), groups, answers(base), groups, seed=seed)


def _verdict(found: Sequence[Interval]) -> Verdict:
    if found and all(interval.low > 0 for interval in found):
        return "better"
    if found and all(interval.high < 0 for interval in found):
        return "worse"
    return "open"


def _points(found: Sequence[Interval]) -> str:
    mean = 100 * fmean(interval.value for interval in found)
    if len(found) > 1:
        text = f"{mean:+.1f} points, mean of {len(found)} seeds"
    else:
        text = f"{mean:+.1f} [{100 * found[0].low:+.1f}, {100 * found[0].high:+.1f}] points"
    return text.replace("-", "−")


def _own(figures: CellFigures) -> Answers:
    return np.array([digit == "1" for digit in figures.right], np.bool_)


def _everywhere(figures: CellFigures) -> Answers:
    return np.array(figures.models_right, np.float64) / figures.sites
