"""What a model's features, its answers to parts of X-rays, and Grad-CAM tell of shortcuts.

[MN21] G. Maguolo, L. Nanni, "A critic evaluation of methods for COVID-19 automatic detection from
X-ray images", Information Fusion 76, 2021.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.learning.grad_cam import grad_cam
from ppfl.learning.intervals import Interval, accuracy_interval, difference_interval
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.probes import predict_with_features, probe
from ppfl.learning.study_model import StudyModel
from ppfl.report import CamShare, Estimate, SiteAuroc, SiteProbe, SiteSensitivity, View
from simulations.shortcuts.xrays import Side

FEWEST = 10
"""Test patients of a class that a hospital needs for a figure on it; for a probe also to fit."""

_SEED = 2022
_BLACKED_OUT = 0.75  # of height and width


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """X-rays of one side, and what the model makes of them.

    ``probabilities`` (n, classes), ``features`` (n, d).
    """

    side: Side
    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Seen:
        """Some of the X-rays."""
        return Seen(self.side[chosen], self.probabilities[chosen], self.features[chosen])

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest class, (n,)."""
        likeliest: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return likeliest


def look_at(model: StudyModel, side: Side) -> Seen:
    """What the model makes of X-rays."""
    return Seen(side, *predict_with_features(model, side.images))


def probe_sites(fit: Seen, test: Seen, classes: Sequence[str]) -> list[SiteProbe]:
    """How well the features tell the hospital: in all, and within each class of several.

    A class tells much of the hospital where a hospital holds few classes; within one class it
    tells nothing. Hospitals with fewer than ten patients of a class on either side are left out.
    """
    places = range(len(classes))
    common = {place: _common_sites(fit, test, place) for place in places}
    if len(set().union(*common.values())) < 2:
        return []
    found = [_probe_site(fit, test, common, "all classes", from_class=True)]
    for place in places:
        if len(common[place]) > 1:
            own = {place: common[place]}
            found.append(_probe_site(fit, test, own, classes[place], from_class=False))
    return found


def compare_views(model: StudyModel, fit: Seen, test: Seen) -> list[View]:
    """How well the class is told from whole X-rays, and from such of which parts are black."""
    found = [
        _view(model, "whole", fit, test),
        _view(model, "centre black", fit, test, _black_centre),
    ]
    known_fit, known = fit[fit.side.masked], test[test.side.masked]
    if _tells_classes(known_fit) and len(known.side.labels):
        found += [
            _view(model, "lungs known: whole", known_fit, known),
            _view(model, "lungs known: only lungs", known_fit, known, _only_lungs),
            _view(model, "lungs known: lungs black", known_fit, known, _black_lungs),
        ]
    return found


def share_inside_lungs(model: StudyModel, test: Seen) -> list[CamShare]:
    """How much of what speaks for the predicted class lies in the lungs, in all and by class."""
    known = test[test.side.masked]
    if not len(known.side.labels):
        return []
    maps = grad_cam(model, known.side.images, known.predicted)
    mass = maps.sum(axis=(1, 2))
    inside = (maps * known.side.lungs).sum(axis=(1, 2)) / np.where(mass > 0, mass, 1)
    area = known.side.lungs.mean(axis=(1, 2))
    rows = [("all classes", mass > 0)]
    for place, name in enumerate(model.classes):
        rows.append((name, (mass > 0) & (known.side.labels == place)))
    return [
        CamShare(
            name=name,
            images=int(chosen.sum()),
            inside=float(inside[chosen].mean()),
            area=float(area[chosen].mean()),
        )
        for name, chosen in rows
        if chosen.any()
    ]


def auroc_by_site(
    test: Seen, classes: Sequence[str], held_out: Callable[[str], StudyModel] | None
) -> Iterator[SiteAuroc]:
    """AUROC at each hospital that has ten test patients of two classes, the mean over such classes.

    ``held_out`` gives a model that was trained without a hospital.
    """
    for site, at_site, places in _hospitals(test, classes):
        if len(places) > 1:
            side = at_site.side
            other = held_out(site).predict(side.images) if held_out else None
            yield SiteAuroc(
                site=site,
                images=_class_counts(side, classes),
                auroc=_macro_auroc(at_site.probabilities, side.labels, classes, places),
                held_out=None
                if other is None
                else _macro_auroc(other, side.labels, classes, places),
            )


def sensitivity_by_site(
    test: Seen, fit: Seen, classes: Sequence[str], held_out: Callable[[str], StudyModel] | None
) -> Iterator[SiteSensitivity]:
    """Sensitivity at each hospital that has ten test patients of one class, and of no other.

    ``held_out`` is as for ``auroc_by_site``.
    """
    for site, at_site, places in _hospitals(test, classes):
        if len(places) == 1:
            (place,) = places
            of_class = at_site[at_site.side.labels == place]
            side = of_class.side
            other = held_out(site).predict(side.images) if held_out else None
            yield SiteSensitivity(
                site=site,
                label=classes[place],
                images=len(side.labels),
                elsewhere=int(((fit.side.labels == place) & (fit.side.sites != site)).sum()),
                model=_sensitivity(of_class.probabilities, side),
                held_out=None if other is None else _sensitivity(other, side),
            )


def _hospitals(test: Seen, classes: Sequence[str]) -> Iterator[tuple[str, Seen, list[int]]]:
    """Each hospital, its X-rays, and the classes of which it has enough patients."""
    for site in np.unique(test.side.sites):
        at_site = test[test.side.sites == site]
        side, places = at_site.side, range(len(classes))
        if site:
            enough = [p for p in places if _patients(side, side.labels == p) >= FEWEST]
            yield str(site), at_site, enough


def _sensitivity(probabilities: NDArray[np.float32], side: Side) -> Estimate:
    right = probabilities.argmax(axis=1) == side.labels
    return _estimate(accuracy_interval(right, side.groups, seed=_SEED))


def _common_sites(fit: Seen, test: Seen, place: int) -> set[str]:
    """Hospitals with enough patients of a class on either side."""
    return {
        str(site)
        for site in np.unique(fit.side.sites)
        if site
        and all(
            _patients(side, (side.sites == site) & (side.labels == place)) >= FEWEST
            for side in (fit.side, test.side)
        )
    }


def _patients(side: Side, chosen: NDArray[np.bool_]) -> int:
    return len(np.unique(side.groups[chosen]))


def _probe_site(
    fit: Seen, test: Seen, common: dict[int, set[str]], within: str, *, from_class: bool
) -> SiteProbe:
    def chosen(side: Side) -> NDArray[np.bool_]:
        pairs = zip(side.labels, side.sites, strict=True)
        return np.array([site in common.get(int(label), ()) for label, site in pairs])

    fit, test = fit[chosen(fit.side)], test[chosen(test.side)]
    sites, groups = test.side.sites, test.side.groups
    right = probe(fit.features, fit.side.sites, test.features) == sites
    guesses = np.full(len(sites), _commonest(fit.side.sites)) == sites
    best, by_class = guesses, None
    if from_class:
        labels = fit.side.labels
        of_class = {int(c): _commonest(fit.side.sites[labels == c]) for c in np.unique(labels)}
        best = np.array([of_class[int(label)] for label in test.side.labels]) == sites
        by_class = float(best.mean())
    return SiteProbe(
        within=within,
        images=dict(sorted(Counter(map(str, sites)).items())),
        accuracy=_estimate(accuracy_interval(right, groups, seed=_SEED)),
        chance=float(guesses.mean()),
        from_class=by_class,
        more_than_chance=_estimate(difference_interval(right, groups, best, groups, seed=_SEED)),
    )


def _commonest(values: NDArray[np.str_]) -> str:
    return Counter(map(str, values)).most_common(1)[0][0]


def _view(
    model: StudyModel,
    name: str,
    fit: Seen,
    test: Seen,
    change: Callable[[Side], NDArray[np.uint8]] | None = None,
) -> View:
    if change is not None:
        fit, test = (_changed(model, seen.side, change) for seen in (fit, test))
    side = test.side
    labels = side.labels.astype(np.str_)
    fitted = fit.side.labels.astype(np.str_)
    right = test.predicted == side.labels
    told = probe(fit.features, fitted, test.features) == labels
    return View(
        view=name,
        images=_class_counts(side, model.classes),
        model=_estimate(accuracy_interval(right, side.groups, seed=_SEED)),
        auroc=_macro_auroc(
            test.probabilities, side.labels, model.classes, range(len(model.classes))
        ),
        probe=_estimate(accuracy_interval(told, side.groups, seed=_SEED)),
        chance=float((labels == _commonest(fitted)).mean()),
    )


def _changed(model: StudyModel, side: Side, change: Callable[[Side], NDArray[np.uint8]]) -> Seen:
    return look_at(model, Side(change(side), side.labels, side.groups, side.sites, side.lungs))


def _black_centre(side: Side) -> NDArray[np.uint8]:
    """With a black square in the middle, which covers the lungs and most of the chest [MN21]."""
    size = side.images.shape[-1]
    edge = round(size * (1 - _BLACKED_OUT) / 2)
    images = side.images.copy()
    images[:, edge : size - edge, edge : size - edge] = 0
    return images


def _only_lungs(side: Side) -> NDArray[np.uint8]:
    return np.where(side.lungs, side.images, np.uint8(0))


def _black_lungs(side: Side) -> NDArray[np.uint8]:
    return np.where(side.lungs, np.uint8(0), side.images)


def _tells_classes(seen: Seen) -> bool:
    return len(np.unique(seen.side.labels)) > 1


def _class_counts(side: Side, classes: Sequence[str]) -> dict[str, int]:
    return {name: int((side.labels == place).sum()) for place, name in enumerate(classes)}


def _macro_auroc(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    places: Iterable[int],
) -> float | None:
    """The mean over those of the classes of which there are images; None where none has others."""
    found = compute_metrics(EvaluationCounts.from_predictions(probabilities, labels), classes)
    each = [found.classes[classes[place]].auroc for place in places]
    known = [auroc for auroc in each if not math.isnan(auroc)]
    return sum(known) / len(known) if known else None


def _estimate(interval: Interval) -> Estimate:
    return Estimate(**asdict(interval))
