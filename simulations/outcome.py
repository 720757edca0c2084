"""A run of several, which goes on where it was cut off, and what its models say of the tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, PpflError, QuorumError, RunError, error_of
from ppfl.federation import iterate_journal
from ppfl.federation.journal import AnyEvent, RoundClosed, SiteFailed, StudyStarted
from ppfl.learning.images import ImageSet, load_images
from ppfl.learning.sources import read_records
from ppfl.learning.study_model import StudyModel
from ppfl.report import Summary, summarise
from ppfl.settings import SiteFile, Study, read_settings
from simulations.dealing import HELD_OUT, held_out_xrays
from simulations.prepare import PREPARING, prepare
from simulations.runner import run_in_process
from simulations.scenario import Scenario
from sites.personal import PERSONAL_MODEL
from sites.xrays import XRays


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model says of test images, in the order in which they were loaded.

    ``probabilities`` (n, classes), ``labels`` (n,), ``groups`` (n,): whose X-ray it is.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the likeliest class is the right one, (n,)."""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return right


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A complete run: its study, how it went, and what each site's model says of its own tests.

    Where the sites have personal models, it is these that are asked.

    ``minutes`` are from enrolment to test; making keys and sealing a vault is not in them.
    """

    study: Study
    summary: Summary
    predictions: Mapping[str, Predictions]
    train_images: int
    minutes: float


def prepare_or_resume(scenario: Scenario, folder: Path, *, threads: int = 0) -> None:
    """Make the folder of a run, if it was not made before.

    ``threads`` are those of each of its sites, as for ``prepare``; a folder keeps its own.

    Raises:
        RunError: it was made for other settings, or holds results and no run.
        PpflError: as for ``prepare``.
    """
    if (folder / "study.toml").exists():
        kept = read_settings(folder / "scenario.toml", Scenario)
        if kept != scenario:
            raise RunError(
                f"{folder}: was begun with other settings or other X-rays", hint="another --out"
            )
        return
    if next(folder.glob("*.json"), None):
        raise RunError(
            f"{folder}: holds results, but no study.toml; it is left as it is", hint="another --out"
        )
    if folder.exists() and not (folder / PREPARING).exists():  # else someone may be at it
        shutil.rmtree(folder)  # cut off while it was removed: its key is lost with it
    prepare(scenario, folder, threads=threads)


def remove_run(folder: Path) -> None:
    """Remove a run's folder so that, cut off on the way, it is no run that could be gone on with.

    What cannot be removed is left.
    """
    with suppress(OSError):
        (folder / "study.toml").unlink()
    shutil.rmtree(folder, ignore_errors=True)


def finish_run(folder: Path, *, report: bool = True) -> None:
    """Train, from the start or from the last complete round; what is complete stays as it is.

    ``report`` is as for ``run_in_process``.

    Raises:
        PpflError: the study failed; where too few sites answered, for the first one's reason.
    """
    journal = folder / "journal.jsonl"
    if journal.exists() and summarise(iterate_journal(journal)).closed:
        return
    try:
        run_in_process(folder, report=report)
    except QuorumError as error:
        study = Study.read(folder / "study.toml")
        raise absence(iterate_journal(journal), study) or error from None


def run_to_end(folder: Path, *, report: bool = True) -> Outcome:
    """Finish a run, and ask its models about the tests; see ``finish_run``.

    Raises:
        PpflError: the study failed, or went on without a site, for that site's reason; or its
            sites' models do not do as well as they told the coordinator, which cannot be.
    """
    finish_run(folder, report=report)
    journal, study = folder / "journal.jsonl", Study.read(folder / "study.toml")
    if absent := absence(iterate_journal(journal), study):
        raise absent
    summary = summarise(iterate_journal(journal))
    predictions, train_images = {}, 0
    for site in site_files(study, folder):
        xrays = XRays(site, study)
        train_images += len(xrays.records("train"))
        predictions[site.name] = predict_tests(common_model(site).predict, xrays.images("test"))
    correct = join_predictions(predictions.values()).correct
    told = summary.test.get("accuracy")
    if told is not None and abs(correct.mean() - told) > 1e-6:
        raise RunError(
            f"{folder}: the models are right in {correct.mean():.4f} of cases, the federation "
            f"said {told:.4f}"
        )
    if study.training.personalise_epochs:
        for site in site_files(study, folder):
            images = XRays(site, study).images("test")
            predictions[site.name] = predict_tests(own_model(site, study).predict, images)
    return Outcome(study, summary, predictions, train_images, _minutes(iterate_journal(journal)))


def absence(events: Iterable[AnyEvent], study: Study) -> PpflError | None:
    """The error for which a site was left out of a total, in the first round that lacks one.

    None where all took part: what a federation without one of its sites came to says nothing of a
    federation with it.
    """
    failed: dict[str, SiteFailed] = {}
    for event in events:
        match event:
            case StudyStarted():
                failed = {}
            case SiteFailed(site=site):
                failed[site] = event
            case RoundClosed(sites=inside):
                if missing := [name for name in study.federation.sites if name not in inside]:
                    return _left_out(missing[0], event.round, failed.get(missing[0]))
                failed = {}
    last = next(iter(failed.values()), None)
    return _left_out(last.site, last.round, last) if last else None


def _left_out(site: str, number: int, failed: SiteFailed | None) -> PpflError:
    message = f"{site} was not in round {number}"
    return error_of(failed.code, f"{message}: {failed.sentence}") if failed else RunError(message)


def common_model(site: SiteFile) -> StudyModel:
    """What a site has of a study's model; the same everywhere, but for layers that are local.

    Raises:
        ModelError: the file cannot be read.
    """
    return StudyModel.read(site.work / "model.safetensors")


def own_model(site: SiteFile, study: Study) -> StudyModel:
    """The model that a site would use: its personal one, if the study makes some.

    Raises:
        ModelError: the file cannot be read.
    """
    if study.training.personalise_epochs:
        return StudyModel.read(site.work / PERSONAL_MODEL)
    return common_model(site)


def predict_tests(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: ImageSet
) -> Predictions:
    """What a model says of some images; of none, nothing."""
    groups = np.array(images.groups, np.str_)
    return Predictions(predict(images.images), images.labels, groups)


def join_predictions(parts: Iterable[Predictions]) -> Predictions:
    """All of them as one.

    Raises:
        DataError: there is no image among them.
    """
    found = list(parts)
    if not sum(len(part.labels) for part in found):
        raise DataError("no site holds an X-ray to test on")
    return Predictions(
        np.concatenate([part.probabilities for part in found]),
        np.concatenate([part.labels for part in found]),
        np.concatenate([part.groups for part in found]),
    )


def site_tests(study: Study, folder: Path) -> dict[str, ImageSet]:
    """Each site's test images, without those of a patient whom some site trains on; none empty.

    A patient is on one side at every site, unless a site is so small that it trains on all it has.

    Raises:
        DataError: X-rays cannot be used.
    """
    sites = [(site.name, XRays(site, study)) for site in site_files(study, folder)]
    known = {record.group for _, xrays in sites for record in xrays.records("train")}
    tests = {}
    for name, xrays in sites:
        images = xrays.images("test")
        kept = np.array([group not in known for group in images.groups], np.bool_)
        if kept.any():
            groups = tuple(g for g, keep in zip(images.groups, kept, strict=True) if keep)
            tests[name] = ImageSet(images.images[kept], images.labels[kept], groups)
    return tests


def held_out_images(study: Study, folder: Path) -> tuple[str, ImageSet] | None:
    """The hospital of a run that takes no part, and all its images; None if all take part.

    Raises:
        DataError: an image cannot be read.
    """
    held = held_out_xrays(folder)
    if held is None:
        return None
    name, path = held
    images = load_images(
        read_records(path, classes=study.classes),
        classes=study.classes,
        size=study.images.size,
        equalise=study.images.equalise,
        cache=folder / HELD_OUT / name / "cache",
    )
    return name, images


def site_files(study: Study, folder: Path) -> list[SiteFile]:
    """The sites of a run."""
    return [SiteFile.read(folder / "sites" / name / "site.toml") for name in study.federation.sites]


def _minutes(events: Iterable[AnyEvent]) -> float:
    """What the run took, without the pauses before it was resumed."""
    steps = [
        (after.time - before.time).total_seconds()
        for before, after in pairwise(events)
        if not isinstance(after, StudyStarted)
    ]
    return round(sum(steps) / 60, 2)
