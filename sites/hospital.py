"""One hospital's half of a study, without any transport: it opens, evaluates, trains and seals."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppfl.codec import Suite
from ppfl.crypto import read_private_key
from ppfl.errors import (
    DataError,
    MalformedMessageError,
    StaleRoundError,
    StudyMismatchError,
)
from ppfl.federation import Journal, Opened
from ppfl.federation.journal import LeftHospital, LeftItem, ModelKept
from ppfl.learning.files import load_model, save_model
from ppfl.learning.images import ImageSet, load_images, pixel_sums
from ppfl.learning.memory import keep_freed_memory
from ppfl.learning.metrics import EvaluationCounts, compute_metrics, evaluate
from ppfl.learning.models import (
    build_model,
    get_parameters,
    parameters_sha256,
    set_parameters,
)
from ppfl.learning.sources import read_records
from ppfl.learning.splits import Split, split_by_group
from ppfl.learning.training import train_locally
from ppfl.settings import SiteFile, Study
from sites.phase import Phase
from sites.vectors import closing_plan, create_suite, enrolment_plan, shapes_of, update_plan

Parameters = dict[str, NDArray[np.float32]]
SplitName = Literal["train", "validation", "test"]

_RELEASED_DIGITS = 6  # two machines may differ in the last bits of a float, never in these


@dataclass(frozen=True, slots=True)
class Request:
    """What the coordinator asks of a site.

    ``enrolled`` and ``total`` are sums on the wire, empty where there is none yet; ``start`` holds
    the public starting parameters, in the first round only.
    """

    study: str
    run: str
    round_number: int
    enrolled: bytes = b""
    total: bytes = b""
    start: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What leaves the hospital: a sealed vector, and a few things in the clear.

    ``released`` maps a split to the federation's metrics for the model after
    ``released_round`` rounds; ``model_sha256`` is the digest of the model the site opened.
    """

    sealed: bytes = b""
    released: Mapping[str, Any] = field(default_factory=dict)
    released_round: int = 0
    model_sha256: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    clipped: int = 0


class Hospital:
    """One site of one study.

    Args:
        site: the hospital's own settings; all paths come from there.

    Raises:
        SettingsError: the site's copy of the study cannot be read, or does not name this site.
    """

    def __init__(self, site: SiteFile) -> None:
        self.site = site
        self.study = Study.read(site.study)
        if site.name not in self.study.federation.sites:
            raise StudyMismatchError(f"study {self.study.name} has no site {site.name}")
        site.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.journal = Journal(site.work / "journal.jsonl")
        self._phase = Phase(site.work)
        keep_freed_memory()
        if site.threads:
            torch.set_num_threads(site.threads)

    def enroll(self, request: Request) -> Answer:
        """The site's sealed counts and pixel sums, after comparing studies.

        Raises:
            PpflError: the study, the key or the data cannot be used.
        """
        self._agree(request)
        with self._phase.enter("enrolling", request.round_number):
            data = self._images("train")
            integers = {
                "images": np.asarray(len(data.labels)),
                "class_images": np.bincount(data.labels, minlength=len(self.study.classes)),
                "pixels": np.asarray(pixel_sums(data)),
            }
            plan = enrolment_plan(self.study)
            sealed = plan.seal(self._suite, round_number=0, integers=integers)
        return self._leave(request, Answer(sealed=sealed.vector.to_bytes()))

    def train(self, request: Request) -> Answer:
        """The site's sealed update for a round.

        Raises:
            PpflError: the request is not of this study or round, the total is not one the study
                allows to be opened, or training failed.
        """
        self._agree(request)
        clock = _Clock()
        with self._phase.enter("opening", request.round_number), clock.measure("open"):
            enrolled = self._open_enrolment(request)
            model, released = self._open_model(request)
        start = self._shared(model)
        normalisation = self._normalisation(enrolled)
        with self._phase.enter("evaluating", request.round_number), clock.measure("evaluate"):
            counts = self._evaluate(model, "validation", normalisation)
        with self._phase.enter("training", request.round_number) as step, clock.measure("train"):
            data = self._images("train")
            train_locally(
                model,
                data,
                self.study.training,
                classes=len(self.study.classes),
                normalisation=normalisation,
                round_number=request.round_number,
                seed=self._seed,
                progress=step,
                deadline_s=self.study.federation.deadline_s,
            )
            self._keep_local(model)
        with self._phase.enter("sealing", request.round_number), clock.measure("seal"):
            sealed = self._update_plan(start).seal(
                self._suite,
                round_number=request.round_number,
                integers=counts.as_arrays(),
                parameters=self._shared(model),
                model=start,
                weight=len(data.labels) / int(enrolled.integers["images"]),
            )
            wire = sealed.vector.to_bytes()
        answer = Answer(
            sealed=wire,
            released=released,
            released_round=request.round_number - 2,
            model_sha256=parameters_sha256(start),
            seconds=clock.seconds,
            clipped=sealed.clipped,
        )
        self._remember(request)
        return self._leave(request, answer)

    def close(self, request: Request) -> Answer:
        """The sealed counts of the final model, which the site opens, tests and keeps.

        Raises:
            PpflError: as for ``train``.
        """
        self._agree(request)
        clock = _Clock()
        with self._phase.enter("opening", request.round_number), clock.measure("open"):
            enrolled = self._open_enrolment(request)
            model, released = self._open_model(request)
        normalisation = self._normalisation(enrolled)
        with self._phase.enter("evaluating", request.round_number), clock.measure("evaluate"):
            integers = {
                f"{split}.{name}": array
                for split in ("validation", "test")
                for name, array in self._evaluate(model, split, normalisation).as_arrays().items()
            }
            plan = closing_plan(self.study)
            sealed = plan.seal(self._suite, round_number=request.round_number, integers=integers)
        digest = parameters_sha256(self._shared(model))
        save_model(
            self.site.work / "model.safetensors",
            get_parameters(model, batch_norm="average"),
            metadata={
                "study": self.study.fingerprint(),
                "architecture": self.study.model.architecture,
                "classes": json.dumps(self.study.classes),
                "size": str(self.study.images.size),
                "normalisation": json.dumps(normalisation),
                "sha256": digest,
            },
        )
        kept = ModelKept(round=request.round_number - 1, site=self.site.name, sha256=digest)
        self.journal.write(kept)
        answer = Answer(
            sealed=sealed.vector.to_bytes(),
            released=released,
            released_round=request.round_number - 2,
            model_sha256=digest,
            seconds=clock.seconds,
        )
        return self._leave(request, answer)

    def release(self, request: Request) -> Answer:
        """The federation's metrics of the final model, opened from the sum of all sites' counts.

        Raises:
            PpflError: the sum is not one the study allows to be opened.
        """
        self._agree(request)
        with self._phase.enter("opening", request.round_number):
            plan = closing_plan(self.study)
            vector = self._suite.read(request.total, values=plan.values)
            opened = plan.open(self._suite, vector, round_number=request.round_number)
        released: dict[str, Any] = {}
        for split in ("validation", "test"):
            own = {
                name.removeprefix(f"{split}."): array
                for name, array in opened.integers.items()
                if name.startswith(f"{split}.")
            }
            released |= self._release(split, own)
        answer = Answer(released=released, released_round=request.round_number - 1)
        self._phase.finish(request.round_number)
        return self._leave(request, answer)

    # What the request must be

    def _agree(self, request: Request) -> None:
        if request.study != self.study.fingerprint():
            raise StudyMismatchError(
                f"the coordinator's study has fingerprint {request.study[:16]}…, "
                f"{self.site.study} has {self.study.fingerprint()[:16]}…",
                hint="get the study file anew, and read it before you accept it",
            )
        state = self._state()
        if state.get("run") == request.run and request.round_number < state.get("round", 0):
            raise StaleRoundError(
                f"asked for round {request.round_number}, already answered {state['round']}"
            )

    def _remember(self, request: Request) -> None:
        text = json.dumps({"run": request.run, "round": request.round_number})
        (self.site.work / "state.json").write_text(text, encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.site.work / "state.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return state

    # What is opened

    @cached_property
    def _suite(self) -> Suite:
        if self.site.key is None:
            return create_suite(self.study, None)
        key = read_private_key(self.site.key, passphrase=self.site.passphrase())
        return create_suite(
            self.study, key.public, key, engine=self.site.engine, threads=self.site.threads
        )

    def _open_enrolment(self, request: Request) -> Opened:
        plan = enrolment_plan(self.study)
        vector = self._suite.read(request.enrolled, values=plan.values)
        return plan.open(self._suite, vector, round_number=0)

    def _open_model(self, request: Request) -> tuple[nn.Module, dict[str, Any]]:
        """The global model, and the metrics that came with it."""
        options = self.study.model
        model = build_model(
            options.architecture, classes=len(self.study.classes), seed=self.study.seed
        )
        if request.round_number == 1:
            if parameters_sha256(request.start) != options.start_sha256:
                raise MalformedMessageError(
                    "the starting parameters are not those whose digest the study names"
                )
            set_parameters(model, request.start)
            self._keep_local(model)
            return model, {}
        plan = self._update_plan(self._shared(model))
        vector = self._suite.read(request.total, values=plan.values)
        opened = plan.open(self._suite, vector, round_number=request.round_number - 1)
        if self._local_file.exists():
            set_parameters(model, load_model(self._local_file)[0])
        set_parameters(model, opened.parameters)
        return model, self._release("validation", opened.integers)

    def _release(
        self, split: str, integers: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, dict[str, Any]]:
        """The federation's metrics, unless they rest on so few images that one might be told."""
        counts = EvaluationCounts.from_arrays(dict(integers))
        if int(counts.confusion.sum()) < max(1, self.study.federation.release_floor):
            return {}
        metrics = compute_metrics(counts, self.study.classes).to_dict()
        rounded: dict[str, Any] = _rounded(metrics)
        return {split: rounded}

    # Parameters that are shared, and those that stay

    def _shared(self, model: nn.Module) -> Parameters:
        return get_parameters(model, batch_norm=self.study.model.batch_norm)

    def _keep_local(self, model: nn.Module) -> None:
        """Keep all parameters for the next round, because some of them are never sent."""
        if self.study.model.batch_norm == "local":
            parameters = get_parameters(model, batch_norm="average")
            save_model(self._local_file, parameters, metadata={})

    @property
    def _local_file(self) -> Path:
        return self.site.work / "local.safetensors"

    def _update_plan(self, parameters: Parameters) -> Any:
        return update_plan(self.study, shapes_of(parameters))

    # Images

    @cached_property
    def _split(self) -> Split:
        records = read_records(self.site.data, classes=self.study.classes)
        options = self.study.images
        return split_by_group(
            records, validation=options.validation, test=options.test, seed=self.study.seed
        )

    def _images(self, split: SplitName) -> ImageSet:
        records = getattr(self._split, split)
        if split == "train" and not records:
            raise DataError(f"{self.site.data}: no image to train on")
        return load_images(
            records,
            classes=self.study.classes,
            size=self.study.images.size,
            cache=self.site.work / "cache",
        )

    def _evaluate(
        self, model: nn.Module, split: SplitName, normalisation: tuple[float, float]
    ) -> EvaluationCounts:
        classes = len(self.study.classes)
        return evaluate(model, self._images(split), classes=classes, normalisation=normalisation)

    def _normalisation(self, enrolled: Opened) -> tuple[float, float]:
        """Mean and standard deviation of a pixel in [0, 1], the same at every site."""
        if self.study.images.normalisation != "federation":
            return self.study.images.normalisation
        pixels, total, squares = (int(number) for number in enrolled.integers["pixels"])
        mean = total / pixels
        variance = max(squares / pixels - mean * mean, 1.0)
        return mean / 255, sqrt(variance) / 255

    @property
    def _seed(self) -> int:
        """Each site's own, so that no two of them shuffle alike, and none depends on a clock."""
        position = self.study.federation.sites.index(self.site.name)
        sequence = np.random.SeedSequence((self.study.seed, position))
        return int(sequence.generate_state(1, np.uint32)[0])

    # What leaves

    def _leave(self, request: Request, answer: Answer) -> Answer:
        """Write down what leaves this hospital, then let it."""
        items = []
        if answer.sealed:
            what = f"sealed vector: {_describe(request)}"
            items.append(
                LeftItem(what=what, protection=self._suite.protection, bytes=len(answer.sealed))
            )
        for what, value in (
            ("metrics of the whole federation", answer.released),
            ("digest of the model that the sites opened", answer.model_sha256),
            ("seconds that each phase took", answer.seconds),
            ("how many values were clipped", answer.clipped),
        ):
            if value:
                size = len(json.dumps(value))
                items.append(LeftItem(what=what, protection="none, in the clear", bytes=size))
        left = LeftHospital(round=request.round_number, site=self.site.name, items=tuple(items))
        self.journal.write(left)
        return answer


def _describe(request: Request) -> str:
    if request.total or request.start:
        return "the update, or counts at the end"
    return "counts of images and sums of pixels"


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def measure(self, phase: str) -> _Lap:
        return _Lap(self.seconds, phase)


class _Lap:
    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._phase] = round(time.monotonic() - self._started, 3)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _RELEASED_DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
