"""One method in one scenario: a folder with its run and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from ppfl.errors import RunError
from ppfl.files import replace_private
from ppfl.learning.intervals import accuracy_interval
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.report import CellResult, Estimate
from ppfl.settings import Study
from simulations.comparison.baselines import Baseline, train_local, train_pooled
from simulations.methods.methods import Method
from simulations.outcome import (
    Predictions,
    join_predictions,
    predict_tests,
    prepare_or_resume,
    run_to_end,
    site_files,
)
from simulations.progress import RunProgress
from simulations.scenario import Scenario
from sites.xrays import XRays

_CELL = "cell.json"


def run_cell(
    method: Method, scenario: Scenario, name: str, folder: Path, talk: Console
) -> CellResult:
    """Train and test a method in a scenario; what was done before is not done again.

    Raises:
        RunError: the folder was begun with other settings, or is damaged.
        PpflError: the study cannot be prepared, or training failed.
    """
    prepare_or_resume(scenario, folder)
    if done := read_cell(folder):
        return done
    study = Study.read(folder / "study.toml")
    if method.baseline:
        predictions, minutes = _without_federation(method, study, folder, talk.print)
        bytes_up, protection = 0, ""
    else:
        with RunProgress(folder, talk):
            outcome = run_to_end(folder)
        predictions, minutes = outcome.predictions, outcome.minutes
        bytes_up = sum(r.bytes_up for r in outcome.summary.rounds)
        begun = outcome.summary.started
        protection = begun.protection if begun else ""
    result = _result(method, name, study, predictions).model_copy(
        update={"minutes": minutes, "bytes_up": bytes_up, "protection": protection}
    )
    replace_private(folder / _CELL, [result.model_dump_json(indent=1).encode()])
    return result


def read_cell(folder: Path) -> CellResult | None:
    """What a cell came to, None if it is not done.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / _CELL
    if not path.exists():
        return None
    try:
        return CellResult.model_validate_json(path.read_bytes())
    except ValidationError:
        raise RunError(
            f"{path}: not the result of a cell of this version", hint="remove it to measure anew"
        ) from None


def _without_federation(
    method: Method, study: Study, folder: Path, tell: Callable[[str], None]
) -> tuple[Mapping[str, Predictions], float]:
    """What models that were trained without one say of each site's tests, and minutes in all."""
    names = study.federation.sites
    models: dict[str, Baseline] = {}
    if method.baseline == "local":
        models = {name: train_local(study, folder, name, tell) for name in names}
        minutes = sum(model.trained.minutes for model in models.values())
    else:
        pooled = train_pooled(study, folder, tell)
        models, minutes = dict.fromkeys(names, pooled), pooled.trained.minutes
    predictions = {
        site.name: predict_tests(models[site.name].model.predict, XRays(site, study).images("test"))
        for site in site_files(study, folder)
    }
    return predictions, minutes


def _result(
    method: Method, scenario: str, study: Study, by_site: Mapping[str, Predictions]
) -> CellResult:
    found = join_predictions(by_site.values())
    counts = EvaluationCounts.from_predictions(found.probabilities, found.labels)
    tested = {name: part for name, part in by_site.items() if len(part.labels)}
    worst = min(tested, key=lambda name: float(tested[name].correct.mean()))
    auroc = compute_metrics(counts, study.classes).to_dict()["macro_auroc"]
    return CellResult(
        method=method.key,
        name=method.name,
        scenario=scenario,
        study_fingerprint=study.fingerprint(),
        seed=study.seed,
        size=study.images.size,
        rounds=study.training.rounds,
        local_epochs=study.training.local_epochs,
        sites=len(study.federation.sites),
        test_images=len(found.labels),
        accuracy=_accuracy(found, study.seed),
        macro_auroc=auroc,
        worst_site=worst,
        worst_accuracy=_accuracy(tested[worst], study.seed),
        minutes=0,
        bytes_up=0,
        protection="",
    )


def _accuracy(found: Predictions, seed: int) -> Estimate:
    return Estimate.of(accuracy_interval(found.correct, found.groups, seed=seed))


def cells_done(
    folder: Path, scenarios: Sequence[str], methods: Sequence[Method]
) -> list[CellResult]:
    """What is done of a table, by scenario and then by method.

    Raises:
        RunError: a file is damaged.
    """
    places = [folder / scenario / method.key for scenario in scenarios for method in methods]
    return [done for place in places if (done := read_cell(place)) is not None]
