"""One method in one scenario from one seed: trained, tested, and kept in one small file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console

from ppfl.errors import (
    DataError,
    DiskFullError,
    ModelError,
    PpflError,
    RunError,
    SettingsError,
    UnreadableImageError,
    ValueRangeError,
    WeightsError,
    kind_of,
)
from ppfl.files import replace_private
from ppfl.learning.files import parameters_sha256
from ppfl.learning.images import ImageSet
from ppfl.learning.intervals import Answers, accuracy_interval
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.models import get_parameters
from ppfl.learning.sources import read_records
from ppfl.learning.study_model import StudyModel
from ppfl.report import CellFigures, CellResult, Estimate
from ppfl.settings import Study
from simulations.comparison.baselines import Baseline, train_local, train_pooled
from simulations.methods.methods import Method
from simulations.outcome import (
    common_model,
    prepare_or_resume,
    run_to_end,
    site_files,
    site_tests,
)
from simulations.progress import RunProgress
from simulations.scenario import Scenario
from sites.hospital import site_seed
from sites.personal import personalise
from sites.xrays import XRays

_FEWEST = 20  # test images of a site that may be called the worst


@dataclass(frozen=True, slots=True)
class Cell:
    """What is to be measured.

    ``name`` is the scenario's, ``data_sha256`` from ``data_digest``; ``weights_sha256`` is that of
    the file of pretrained weights, empty where there is none.
    """

    method: Method
    scenario: Scenario
    name: str
    data_sha256: str
    weights_sha256: str = ""

    @property
    def seed(self) -> int:
        """The study's."""
        return int(self.scenario.study.get("seed", Study.model_fields["seed"].default))

    @property
    def settings_sha256(self) -> str:
        """Of the scenario, without places on this machine and without a key's fingerprint."""
        encryption = dict(self.scenario.study.get("encryption", {}))
        encryption.pop("key_fingerprint", None)
        study = self.scenario.study | {"seed": self.seed, "encryption": encryption}
        simulation = self.scenario.simulation.model_dump(mode="json", exclude_defaults=True)
        simulation.pop("data", None)
        if "weights" in simulation:
            simulation["weights"] = Path(simulation["weights"]).name
        told: list[object] = [self.method.baseline, study, simulation]
        if self.method.version > 1:
            told.append(self.method.version)
        text = json.dumps(told, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def federation(self) -> Scenario:
        """What is run for it: personal heads are trained afterwards, from the same models."""
        training = dict(self.scenario.study.get("training", {}))
        training.pop("personalise_epochs", None)
        return self.scenario.model_copy(
            update={"study": self.scenario.study | {"training": training}}
        )

    @property
    def run(self) -> str:
        """The name of the folder it is run in; cells of one federation share it."""
        version = f"v{self.method.version}" if self.method.version > 1 else ""
        text = self.federation.model_dump_json() + self.data_sha256 + self.weights_sha256 + version
        return f"{self.name}.{self.seed}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def place(self, results: Path) -> Path:
        """The file that its result lies in."""
        return results / f"{self.name}.{self.method.key}.{self.seed}.json"

    def fits(self, found: CellResult) -> bool:
        """Whether a result is of these settings, of these X-rays, and from these weights.

        Results of earlier versions do not say from which.
        """
        same_weights = found.weights_sha256 in ("", self.weights_sha256)
        return same_weights and (found.settings_sha256, found.data_sha256) == (
            self.settings_sha256,
            self.data_sha256,
        )


def data_digest(data: Path, classes: Sequence[str]) -> str:
    """SHA-256 of the X-rays of some classes as their table has them: paths, labels, groups, sites.

    Raises:
        DataError: there are no such X-rays.
    """
    base = data if data.is_dir() else data.parent
    lines = sorted(
        [os.path.relpath(record.path, base.resolve()), record.label, record.group, record.site]
        for record in read_records(data.resolve(), classes=classes)
    )
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def read_cell(path: Path) -> CellResult | None:
    """The result in a file, None if there is none.

    Raises:
        RunError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return CellResult.model_validate_json(path.read_bytes())
    except ValidationError:
        raise RunError(
            f"{path}: not the result of a cell of this version", hint="remove it to measure anew"
        ) from None


def run_cell(
    cell: Cell, *, out: Path, results: Path, retry: bool = False, threads: int = 0, talk: Console
) -> CellResult:
    """Train and test a method in a scenario; what has a result in ``results`` is only read.

    A study that cannot be run is a result as well, unless it is to be tried again. ``threads`` are
    those of each site in a run that is begun; 0: all.

    Raises:
        RunError: the result is of other settings, X-rays or weights, or damaged; or it cannot be
            kept, or the run in ``out`` cannot be gone on with.
        PpflError: what went wrong says nothing of the method: a full disk, an image that cannot be
            read, weights that cannot be had.
    """
    place = cell.place(results)
    if done := read_cell(place):
        if not cell.fits(done):
            raise RunError(
                f"{place}: was measured with other settings, on other X-rays, or from other "
                "pretrained weights",
                hint="another --results, or another --out",
            )
        if not (done.failure and retry):
            return done
    figures, failure = None, ""
    try:
        figures = _measure(cell, out, threads, talk)
    except PpflError as error:
        if not _is_a_result(error):
            raise
        failure = str(error)
        # what is kept may be shown to others, who need not know this machine's folders
        data = Path(cell.scenario.simulation.data)
        for folder in (out.resolve(), data if data.is_dir() else data.parent):
            failure = failure.replace(f"{folder}/", "").replace(str(folder), folder.name)
        talk.print(f"failed: {error}")
    result = CellResult(
        method=cell.method.key,
        name=cell.method.name,
        scenario=cell.name,
        seed=cell.seed,
        settings_sha256=cell.settings_sha256,
        data_sha256=cell.data_sha256,
        weights_sha256=cell.weights_sha256,
        failure=failure,
        figures=figures,
    )
    try:
        results.mkdir(parents=True, exist_ok=True)
        replace_private(place, [result.model_dump_json().encode(), b"\n"])
    except OSError as error:
        raise RunError(f"{place}: the result cannot be kept: {error.strerror}") from None
    return result


def _is_a_result(error: PpflError) -> bool:
    """Whether an error would come again on any machine: that the study cannot be run."""
    if kind_of(error) is DiskFullError or isinstance(error, UnreadableImageError | WeightsError):
        return False
    return isinstance(error, SettingsError | ModelError | DataError | ValueRangeError)


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """The model that each site would use, and what it took to get there."""

    models: Mapping[str, StudyModel]
    minutes: float
    bytes_up: int = 0
    protection: str = ""


def _measure(cell: Cell, out: Path, threads: int, talk: Console) -> CellFigures:
    folder = out / "runs" / cell.run
    prepare_or_resume(cell.federation, folder, threads=threads)
    study = Study.read(folder / "study.toml")
    tests = site_tests(study, folder)
    if not tests:
        raise DataError("no site holds an X-ray to test on")
    if cell.method.baseline:
        trained = _without_federation(cell.method, study, folder, out / "models", talk)
    else:
        trained = _federated(cell, study, folder, talk)
    return _test(trained, study, tests)


def _without_federation(
    method: Method, study: Study, folder: Path, shared: Path, talk: Console
) -> _Trained:
    names = study.federation.sites
    if method.baseline == "pooled":
        pooled = train_pooled(study, folder, talk.print, shared=shared)
        return _Trained(dict.fromkeys(names, pooled.model), pooled.trained.minutes)
    local: dict[str, Baseline] = {
        name: train_local(study, folder, name, talk.print) for name in names
    }
    minutes = sum(baseline.trained.minutes for baseline in local.values())
    return _Trained({name: baseline.model for name, baseline in local.items()}, minutes)


def _federated(cell: Cell, study: Study, folder: Path, talk: Console) -> _Trained:
    with RunProgress(folder, talk):
        outcome = run_to_end(folder, report=False)
    sites = site_files(study, folder)
    models = {site.name: common_model(site) for site in sites}
    epochs = cell.scenario.study.get("training", {}).get("personalise_epochs", 0)
    began = time.monotonic()
    if epochs:
        training = study.training.model_copy(update={"personalise_epochs": epochs})
        own = study.model_copy(update={"training": training})
        for site in sites:
            talk.print(f"  {site.name}: its own last layer")
            personalise(
                models[site.name].network,
                XRays(site, study).images("train"),
                own,
                normalisation=models[site.name].normalisation,
                seed=site_seed(study, site.name),
                progress=lambda *_: None,
            )
    begun = outcome.summary.started
    return _Trained(
        models,
        round(outcome.minutes + (time.monotonic() - began) / 60, 2),
        sum(r.bytes_up for r in outcome.summary.rounds),
        begun.protection if begun else "",
    )


def _test(trained: _Trained, study: Study, tests: Mapping[str, ImageSet]) -> CellFigures:
    images, groups, held_by = _together(tests)
    asked: dict[str, NDArray[np.float32]] = {}
    own = np.empty((len(groups), len(study.classes)), np.float32)
    models_right = np.zeros(len(groups), np.int64)
    for name, model in trained.models.items():
        digest = parameters_sha256(get_parameters(model.network))
        if digest not in asked:  # one model for all is asked once
            asked[digest] = model.predict(images.images)
        models_right += asked[digest].argmax(axis=1) == images.labels
        own[held_by == name] = asked[digest][held_by == name]
    right: NDArray[np.bool_] = own.argmax(axis=1) == images.labels
    counts = EvaluationCounts.from_predictions(own, images.labels)

    def estimate(answers: Answers, chosen: NDArray[np.bool_] | slice = slice(None)) -> Estimate:
        return Estimate.of(accuracy_interval(answers[chosen], groups[chosen], seed=study.seed))

    enough = [name for name in tests if (held_by == name).sum() >= _FEWEST]
    worst = min(enough, key=lambda name: float(right[held_by == name].mean()), default="")
    _, first, patients = np.unique(groups, return_index=True, return_counts=True)
    return CellFigures(
        size=study.images.size,
        rounds=study.training.rounds,
        local_epochs=study.training.local_epochs,
        local_steps=study.training.local_steps,
        sites=len(trained.models),
        accuracy=estimate(right),
        everywhere=estimate(models_right / len(trained.models)),
        macro_auroc=compute_metrics(counts, study.classes).to_dict()["macro_auroc"],
        worst_site=worst,
        worst_accuracy=estimate(right, held_by == worst) if worst else None,
        minutes=trained.minutes,
        bytes_up=trained.bytes_up,
        protection=trained.protection,
        tests_sha256=_tests_digest(images, groups, held_by),
        patients=tuple(patients[np.argsort(first)].tolist()),
        right="".join("01"[answer] for answer in right.astype(int)),
        models_right=tuple(models_right.tolist()),
    )


def _together(
    tests: Mapping[str, ImageSet],
) -> tuple[ImageSet, NDArray[np.str_], NDArray[np.str_]]:
    """All sites' images, patient by patient; their patients (n,), and who holds them (n,)."""
    groups = np.array([group for test in tests.values() for group in test.groups], np.str_)
    held_by = np.repeat(np.array(list(tests), np.str_), [len(t.labels) for t in tests.values()])
    labels = np.concatenate([test.labels for test in tests.values()])
    order = np.lexsort((labels, groups))
    images = np.concatenate([test.images for test in tests.values()])[order]
    return ImageSet(images, labels[order], tuple(groups[order])), groups[order], held_by[order]


def _tests_digest(images: ImageSet, groups: NDArray[np.str_], held_by: NDArray[np.str_]) -> str:
    told = [images.labels.tolist(), groups.tolist(), held_by.tolist()]
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(images.images.tobytes())
    return digest.hexdigest()
