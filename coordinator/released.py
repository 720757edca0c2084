"""What the sites released in the clear, recorded as far as more than half of them agree."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ppfl.errors import MalformedMessageError
from ppfl.federation import Journal
from ppfl.federation.journal import (
    Alarm,
    AlarmCode,
    ImagesReleased,
    MeanXRaysReleased,
    MetricsReleased,
)
from ppfl.learning.released_counts import ReleasedCounts
from ppfl.settings import Study
from ppfl.xray.pictures import to_png
from sites.requests import Answer, ReleasedSplit


class Released:
    """Collects what each site reports: the federation's figures and mean X-rays, and a digest."""

    def __init__(self, study: Study, journal: Journal) -> None:
        self._study, self._journal = study, journal
        self._metrics: dict[tuple[int, ReleasedSplit], dict[str, str]] = defaultdict(dict)
        self._models: dict[int, dict[str, str]] = defaultdict(dict)
        self._mean_xrays: dict[str, str] = {}
        self._images: dict[str, str] = {}

    def check(self, answer: Answer, *, after: int, final: bool = False) -> None:
        """Whether an answer tells what it may, before anything of it is used.

        Args:
            answer: a site's, whose figures have the form that ``ClearPart`` demands.
            after: of the model after how many rounds the sites were asked for figures.
            final: whether that is the final one, which is tested, too.

        Raises:
            MalformedMessageError: it tells of another model, split or class.
        """
        if (answer.released or answer.model_sha256) and answer.released_round != after:
            raise MalformedMessageError("figures of another round than asked for")
        classes = len(self._study.classes)
        for split, metrics in answer.released.items():
            if split != "validation" and not final:
                raise MalformedMessageError(f"{split} metrics before the final model")
            confusion, counts = metrics["confusion"], metrics.get("counts")
            named = not metrics["classes"] or set(metrics["classes"]) == set(self._study.classes)
            square = not confusion or {len(confusion), *map(len, confusion)} == {classes}
            if not (named and square):
                raise MalformedMessageError("metrics of other classes than the study's")
            if counts and len(ReleasedCounts.from_dict(counts).confusion) != classes:
                raise MalformedMessageError("counts of other classes than the study's")

    def note(self, site: str, answer: Answer) -> None:
        """Keep what one checked answer says."""
        if answer.model_sha256:
            self._models[answer.released_round + 1][site] = answer.model_sha256
        for split, metrics in answer.released.items():
            told = json.dumps(metrics, sort_keys=True)
            self._metrics[answer.released_round, split][site] = told
        if answer.class_images:
            self._images[site] = json.dumps(dict(answer.class_images), sort_keys=True)

    def publish(self) -> None:
        """Write what the sites reported to the journal, and an alarm where they disagree."""
        for (number, split), by_site in sorted(self._metrics.items()):
            what = f"the {split} metrics after round {number}"
            text, agreeing = self._settle(number, "metrics-disagree", what, by_site)
            if not agreeing:
                continue
            metrics = json.loads(text)
            self._journal.write(
                MetricsReleased(
                    round=number,
                    split=split,
                    sites=agreeing,
                    counts=metrics.pop("counts", None) or {},
                    metrics=metrics,
                )
            )
        for number, digests in sorted(self._models.items()):
            what = f"the opened model after round {number}"
            self._settle(number, "model-disagrees", what, digests)
        if self._images:
            text, agreeing = self._settle(0, "images-disagree", "their images", self._images)
            if agreeing:
                told = json.loads(text)
                images = {name: told[name] for name in self._study.classes if name in told}
                self._journal.write(ImagesReleased(sites=agreeing, images=images))
        self._metrics.clear()
        self._models.clear()
        self._images.clear()

    def note_mean_xrays(self, site: str, answer: Answer) -> None:
        """Keep the mean X-rays that one answer holds, perhaps none.

        Raises:
            MalformedMessageError: they are not pictures of the study's classes and size.
        """
        for name in answer.mean_xrays:
            if name not in self._study.classes:
                raise MalformedMessageError("a mean X-ray of a class that the study does not have")
            self._picture(answer.mean_xrays, name)
        self._mean_xrays[site] = json.dumps(dict(answer.mean_xrays), sort_keys=True)

    def publish_mean_xrays(self, *, bytes_up: int) -> None:
        """Write the mean X-rays to the journal, if a site told any, and an alarm as above."""
        if not self._mean_xrays:
            return
        text, agreeing = self._settle(0, "mean-xrays-disagree", "the mean X-rays", self._mean_xrays)
        if not agreeing:
            return
        told = json.loads(text)
        pictures = {
            name: b64encode(self._picture(told, name)).decode()
            for name in self._study.classes
            if name in told
        }
        event = MeanXRaysReleased(sites=agreeing, bytes_up=bytes_up, pictures=pictures)
        self._journal.write(event)

    def _picture(self, told: Mapping[str, str], name: str) -> bytes:
        """A class's picture as a PNG file, which is made here: none is taken from a site."""
        size = self._study.mean_xray_size
        try:
            pixels = np.frombuffer(b64decode(told[name], validate=True), np.uint8)
            return to_png(pixels.reshape(size, size))
        except ValueError:
            raise MalformedMessageError(f"a mean X-ray that is not {size} pixels square") from None

    def _settle(
        self, number: int, code: AlarmCode, what: str, by_site: dict[str, str]
    ) -> tuple[str, tuple[str, ...]]:
        """What most sites told, and which do; an alarm if not all do.

        No site is named where none has more than half of them behind it.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        for site, told in by_site.items():
            groups[told].append(site)
        if len(groups) > 1:
            parts = " against ".join(", ".join(sites) for sites in groups.values())
            sentence = f"the sites disagree about {what}: {parts}"
            self._journal.write(Alarm(round=number, code=code, sentence=sentence))
        text = max(groups, key=lambda told: len(groups[told]))
        agreeing = groups[text]
        return text, tuple(agreeing) if 2 * len(agreeing) > len(by_site) else ()
