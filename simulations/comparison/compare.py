"""Tests a federation and its baselines on the same images, and says where they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, RunError, SettingsError
from ppfl.federation import iterate_journal
from ppfl.files import replace_private
from ppfl.learning.delong import delong
from ppfl.learning.files import parameters_sha256
from ppfl.learning.intervals import accuracy_interval, difference_interval
from ppfl.learning.models import get_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.report import COMPARISON, Comparison, Estimate, summarise
from ppfl.report.comparison import (
    Abroad,
    Difference,
    Elsewhere,
    Method,
    Other,
    Place,
    Tested,
    Training,
)
from ppfl.settings import Study
from simulations.comparison.baselines import (
    Baseline,
    check_without_encryption,
    run_without_encryption,
    train_local,
    train_pooled,
)
from simulations.outcome import (
    Predictions,
    common_model,
    held_out_images,
    join_predictions,
    own_model,
    predict_tests,
    site_files,
    site_tests,
)

METHODS: tuple[Method, ...] = ("local", "pooled", "plaintext", "unrounded")

ASKED = "compare.txt"
"""The file of a run that names what it is compared with whenever it is resumed."""

_FEWEST = 10  # patients; below, resamples are too few to speak of an interval


@dataclass(frozen=True, slots=True, eq=False)
class _Federation:
    """The models that a federation ended with, by site.

    ``own`` are those that the sites would use, ``common`` those that it had trained; all of these
    are one where no layer is local.
    """

    own: Mapping[str, StudyModel]
    common: Mapping[str, StudyModel]

    @classmethod
    def read(cls, study: Study, folder: Path) -> _Federation:
        sites = site_files(study, folder)
        common = {site.name: common_model(site) for site in sites}
        return cls({site.name: own_model(site, study) for site in sites}, common)

    @property
    def digests(self) -> list[str]:
        """Of what each site has of the common model, in order."""
        return [parameters_sha256(get_parameters(m.network)) for m in self.common.values()]

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities for a hospital that took no part: the mean over the different models."""
        different = dict(zip(self.digests, self.common.values(), strict=True)).values()
        mean: NDArray[np.float32] = np.mean([m.predict(images) for m in different], axis=0)
        return mean


def compare_run(folder: Path, methods: Sequence[Method], tell: Callable[[str], None]) -> Comparison:
    """Compare a complete run with other trainings, and keep the result in its folder.

    What was trained before is not trained again. All are tested on each site's test images without
    those of patients whom another site trains on, and on all images of a hospital held out.

    Raises:
        PpflError: the run's X-rays or models cannot be used, or a training failed.
        DataError: there is no image to test on.
    """
    study = Study.read(folder / "study.toml")
    names = study.federation.sites
    held, tests = held_out_images(study, folder), site_tests(study, folder)
    if not (tests or held):
        raise DataError("no site holds an X-ray to test on")
    local: dict[str, Baseline] = {}
    pooled: Baseline | None = None
    plain: dict[Method, _Federation] = {}
    trainings: list[Training] = []
    if "local" in methods:
        for name in names:
            local[name] = train_local(study, folder, name, tell)
            told = local[name].trained.model_dump()
            trainings.append(Training(method="local", trained_at=name, **told))
    if "pooled" in methods:
        pooled = train_pooled(study, folder, tell)
        trainings.append(Training(method="pooled", **pooled.trained.model_dump()))
    for method in ("plaintext", "unrounded"):
        if method in methods:
            tell(f"  the same federation: {method}")
            place = run_without_encryption(folder, rounded=method == "plaintext")
            plain[method] = _Federation.read(study, place)
    federation = _Federation.read(study, folder)

    def own(models: Mapping[str, StudyModel]) -> dict[str, Predictions]:
        return {name: predict_tests(models[name].predict, t) for name, t in tests.items()}

    by_method: dict[Method, dict[str, Predictions]] = {}
    if local:
        by_method["local"] = own({name: baseline.model for name, baseline in local.items()})
    if pooled:
        by_method["pooled"] = own(dict.fromkeys(names, pooled.model))
    by_method |= {method: own(found.own) for method, found in plain.items()}
    federated = own(federation.own)
    compare = _Comparer(study.classes, study.seed)
    places = []
    for name in ("", *tests) if tests else ():
        chosen = list(tests) if not name else [name]
        ours = join_predictions(federated[n] for n in chosen)
        trained_at = name if len(chosen) == 1 else ""
        others = [
            (method, trained_at * (method == "local"), join_predictions(found[n] for n in chosen))
            for method, found in by_method.items()
        ]
        places.append(compare.place(name, ours, others))
    if held:
        name, images = held
        others = [
            ("local", site, predict_tests(baseline.model.predict, images))
            for site, baseline in local.items()
        ]
        if pooled:
            others.append(("pooled", "", predict_tests(pooled.model.predict, images)))
        others += [(m, "", predict_tests(found.predict, images)) for m, found in plain.items()]
        ours = predict_tests(federation.predict, images)
        places.append(compare.place(name, ours, others, held_out=True))
    travelled = {
        trained_at: {
            tested_at: predict_tests(baseline.model.predict, images)
            for tested_at, images in tests.items()
            if tested_at != trained_at
        }
        for trained_at, baseline in local.items()
    }
    same = None
    if "plaintext" in plain:
        same = plain["plaintext"].digests == federation.digests
    comparison = Comparison(
        study=study.name,
        study_fingerprint=study.fingerprint(),
        classes=study.classes,
        trainings=tuple(trainings),
        places=tuple(places),
        abroad=tuple(compare.abroad(travelled, federated)),
        elsewhere=tuple(compare.elsewhere(travelled, federated)),
        same_model_in_plaintext=same,
        warnings=(*_absences(folder, study), *_warnings(places)),
    )
    replace_private(folder / COMPARISON, [comparison.model_dump_json(indent=1).encode()])
    return comparison


def also_asked(folder: Path, methods: Sequence[Method]) -> list[Method]:
    """These methods, and those that a run was asked to be compared with before; all are kept.

    Raises:
        RunError: what was kept is damaged.
        SettingsError: the run's study cannot be trained so; nothing new is kept.
    """
    place, before = folder / ASKED, list[Method]()
    if place.exists():
        try:
            before = read_methods(place.read_text(encoding="ascii"))
        except (SettingsError, UnicodeDecodeError):
            raise RunError(f"{place}: damaged", hint="remove it, and give --compare") from None
    every = [method for method in METHODS if method in {*before, *methods}]
    if {"plaintext", "unrounded"}.intersection(every):
        check_without_encryption(folder)
    if every != before:
        replace_private(place, [",".join(every).encode()])
    return every


def read_methods(text: str) -> list[Method]:
    """The methods that a comma-separated list names, in their usual order.

    Raises:
        SettingsError: one of them does not exist.
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if strange := [part for part in wanted if part not in METHODS]:
        raise SettingsError(f"--compare {strange[0]}: there are {', '.join(METHODS)}")
    return [method for method in METHODS if method in wanted]


@dataclass(frozen=True, slots=True)
class _Comparer:
    classes: tuple[str, ...]
    seed: int

    def place(
        self,
        name: str,
        federated: Predictions,
        others: Sequence[tuple[Method, str, Predictions]],
        *,
        held_out: bool = False,
    ) -> Place:
        return Place(
            name=name,
            held_out=held_out,
            images=len(federated.labels),
            patients=len(np.unique(federated.groups)),
            federated=self._tested(federated),
            others=tuple(
                self._other(method, trained_at, federated, found)
                for method, trained_at, found in others
            ),
        )

    def abroad(
        self,
        travelled: Mapping[str, Mapping[str, Predictions]],
        federated: Mapping[str, Predictions],
    ) -> Iterator[Abroad]:
        """Each site's own model on every other site's test images."""
        for trained_at, by_site in travelled.items():
            for tested_at, found in by_site.items():
                yield Abroad(
                    trained_at=trained_at,
                    tested_at=tested_at,
                    accuracy=self._accuracy(found),
                    difference=self._less(federated[tested_at], found),
                )

    def elsewhere(
        self,
        travelled: Mapping[str, Mapping[str, Predictions]],
        federated: Mapping[str, Predictions],
    ) -> Iterator[Elsewhere]:
        """Each site's own model on all other sites' test images together."""
        for trained_at, by_site in travelled.items():
            if by_site:
                found = join_predictions(by_site.values())
                ours = join_predictions(federated[name] for name in by_site)
                yield Elsewhere(
                    trained_at=trained_at,
                    images=len(found.labels),
                    accuracy=self._accuracy(found),
                    federated=self._accuracy(ours),
                    difference=self._less(ours, found),
                )

    def _tested(self, found: Predictions) -> Tested:
        aurocs: dict[str, float | None] = {}
        sensitivity: dict[str, Estimate | None] = {}
        for index, name in enumerate(self.classes):
            own = found.labels == index
            scores = found.probabilities[:, index]
            enough = _patients(found, own) >= _FEWEST
            aurocs[name] = delong(own, scores, scores).aurocs[0] if enough else None
            sensitivity[name] = self._accuracy(_part(found, own)) if own.any() else None
        known = [auroc for auroc in aurocs.values() if auroc is not None]
        return Tested(
            accuracy=self._accuracy(found),
            sensitivity=sensitivity,
            auroc=aurocs,
            macro_auroc=float(np.mean(known)) if known else None,
        )

    def _other(
        self, method: Method, trained_at: str, federated: Predictions, found: Predictions
    ) -> Other:
        sensitivity: dict[str, Difference | None] = {}
        auroc: dict[str, Difference | None] = {}
        for index, name in enumerate(self.classes):
            own = found.labels == index
            sensitivity[name] = self._less(_part(federated, own), _part(found, own))
            auroc[name] = None
            if _patients(found, own) >= _FEWEST:
                pair = delong(
                    own,
                    federated.probabilities[:, index],
                    found.probabilities[:, index],
                    groups=found.groups,
                )
                p = None if math.isnan(pair.p) else pair.p
                auroc[name] = Difference(estimate=Estimate.of(pair.difference), p=p)
        return Other(
            method=method,
            trained_at=trained_at,
            tested=self._tested(found),
            accuracy=self._less(federated, found),
            sensitivity=sensitivity,
            auroc=auroc,
        )

    def _accuracy(self, found: Predictions) -> Estimate:
        return Estimate.of(accuracy_interval(found.correct, found.groups, seed=self.seed))

    def _less(self, federated: Predictions, found: Predictions) -> Difference | None:
        """The federation's accuracy minus the other's, if there are patients enough."""
        if len(np.unique(found.groups)) < _FEWEST:
            return None
        less = difference_interval(
            federated.correct, federated.groups, found.correct, found.groups, seed=self.seed
        )
        return Difference(estimate=Estimate.of(less))


def _part(found: Predictions, chosen: NDArray[np.bool_]) -> Predictions:
    return Predictions(found.probabilities[chosen], found.labels[chosen], found.groups[chosen])


def _patients(found: Predictions, own: NDArray[np.bool_]) -> int:
    """How many patients there are with a class, or without it if those are fewer."""
    return min(len(np.unique(found.groups[own])), len(np.unique(found.groups[~own])))


def _absences(folder: Path, study: Study) -> Iterator[str]:
    rounds = summarise(iterate_journal(folder / "journal.jsonl")).rounds
    for site in study.federation.sites:
        if missed := sum(site not in r.sites for r in rounds):
            yield (
                f"{site} was left out of {missed} of {len(rounds)} rounds of the federation; what "
                "it is compared with is trained with that site's X-rays throughout"
            )


def _warnings(places: Sequence[Place]) -> Iterator[str]:
    for place in places:
        for other in place.others:
            alone = other.method == "local" and other.trained_at == place.name != ""
            if alone and other.accuracy and other.accuracy.estimate.high < 0:
                classes = [name for name, told in other.tested.sensitivity.items() if told]
                one = f"; but all its test images are of {classes[0]}, and to answer nothing else "
                one += "is right there and nowhere else"
                yield (
                    f"{place.name} would do better alone: accuracy "
                    f"{100 * other.tested.accuracy.value:.1f} % with its own model, "
                    f"{100 * place.federated.accuracy.value:.1f} % with the federation's, a "
                    f"difference of {other.accuracy.estimate.percent(signed=True)} points"
                    f"{one if len(classes) == 1 else ''}"
                )
