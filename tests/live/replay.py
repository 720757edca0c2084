"""The model that a federation should have, computed anew from who took part in which round.

No process, no message, no coordinator and no encryption: each contributor is trained in this
process, its update is rounded to integers, the integers are added by numpy, and divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import WEIGHT_UNIT, Quantizer, ranges_of
from ppfl.federation.journal import (
    AnyEvent,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyStarted,
)
from ppfl.learning.images import ImageSet, pixel_sums
from ppfl.learning.models import build_study_model, get_parameters, set_parameters
from ppfl.learning.training import train_locally
from ppfl.settings import SiteFile, Study
from sites.vectors import shapes_of
from sites.xrays import XRays

Parameters = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PlayedRound:
    """Who was enrolled when a complete round was asked for, and who is in its total."""

    number: int
    enrolled: frozenset[str]
    contributors: frozenset[str]


def rounds_of(events: Sequence[AnyEvent]) -> list[PlayedRound]:
    """The complete rounds of a coordinator's journal, in the order in which they were closed.

    Raises:
        AssertionError: a round was closed twice, or out of turn, or with a site twice, or with
            others than had answered; or a run began anew with a complete round.
    """
    rounds: list[PlayedRound] = []
    enrolled: set[str] = set()
    asked: frozenset[str] = frozenset()
    answered: list[str] = []
    for event in events:
        match event:
            case StudyStarted():
                assert event.resumed_after == len(rounds), "a complete round was lost"
                enrolled = set()
            case SiteEnrolled():
                enrolled.add(event.site)
            case RoundStarted():
                assert event.round == len(rounds) + 1, "a round out of turn"
                asked, answered = frozenset(enrolled), []
            case SiteAnswered():
                answered.append(event.site)
            case RoundClosed():
                assert event.round == len(rounds) + 1, "a round was closed twice"
                assert sorted(event.sites) == sorted(answered)
                assert len(set(answered)) == len(answered), "a site is in a total twice"
                rounds.append(PlayedRound(event.round, asked, frozenset(answered)))
    return rounds


class Replay:
    """Trains and averages what a study's sites did; each distinct history once.

    Args:
        study: without local layers.
        start: its starting parameters.
        sites: the site files, whose X-rays are read.
        cache: a folder for decoded X-rays.
    """

    def __init__(
        self, study: Study, start: Parameters, sites: Sequence[SiteFile], *, cache: Path
    ) -> None:
        assert not study.model.has_local_layers
        self._study, self._start = study, start
        self._images: dict[str, ImageSet] = {}
        for site in sites:
            here = site.model_copy(update={"work": cache / site.name})
            self._images[site.name] = XRays(here, study).images("train")
        self._made: dict[tuple[PlayedRound, ...], Parameters] = {(): start}

    def model_after(self, rounds: Sequence[PlayedRound]) -> Parameters:
        """The parameters after these rounds."""
        key = tuple(rounds)
        if key not in self._made:
            normalisation = self._normalisation(rounds[0].enrolled)
            before = self.model_after(rounds[:-1])
            self._made[key] = self._average(before, rounds[-1], normalisation)
        return self._made[key]

    def _average(
        self, before: Parameters, played: PlayedRound, normalisation: tuple[float, float]
    ) -> Parameters:
        images = sum(len(self._images[site].labels) for site in played.enrolled)
        bits = self._study.encryption.value_bits
        quantizer = Quantizer(shapes_of(before), ranges_of(before), bits)
        total, weights = np.zeros(quantizer.values, np.int64), 0
        for site in played.contributors:
            weight = round(len(self._images[site].labels) / images / WEIGHT_UNIT)
            after = self._train(site, before, played.number, normalisation)
            total += quantizer.quantize(after, weight=weight).values
            weights += weight
        summands = len(played.contributors)
        return quantizer.dequantize(total, summands=summands, weight=weights)

    def _train(
        self, site: str, before: Parameters, number: int, normalisation: tuple[float, float]
    ) -> Parameters:
        study = self._study
        classes = len(study.classes)
        model = build_study_model(study)
        set_parameters(model, before)
        place = study.federation.sites.index(site)
        seed = int(np.random.SeedSequence((study.seed, place)).generate_state(1, np.uint32)[0])
        train_locally(
            model,
            self._images[site],
            study.training,
            classes=classes,
            normalisation=normalisation,
            round_number=number,
            seed=seed,
        )
        return get_parameters(model)

    def _normalisation(self, enrolled: frozenset[str]) -> tuple[float, float]:
        if self._study.images.normalisation != "federation":
            return self._study.images.normalisation
        sums = np.array([pixel_sums(self._images[site]) for site in enrolled]).sum(axis=0)
        pixels, total, squares = (int(number) for number in sums)
        mean = total / pixels
        return mean / 255, sqrt(max(squares / pixels - mean * mean, 1.0)) / 255
