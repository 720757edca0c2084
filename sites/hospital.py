"""One hospital's half of a study, without any transport: it opens, evaluates, trains and seals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ppfl.errors import (
    MalformedMessageError,
    OwnVectorError,
    RoundError,
    StudyMismatchError,
)
from ppfl.federation import Journal, Opened
from ppfl.federation.journal import LabelsLeftOut, LeftHospital, ModelKept, WillSend
from ppfl.federation.xray_sums import XRaySums
from ppfl.learning.files import parameters_sha256
from ppfl.learning.images import normalisation_of, pixel_sums
from ppfl.learning.memory import keep_freed_memory
from ppfl.learning.metrics import EvaluationCounts
from ppfl.learning.prediction import evaluate
from ppfl.learning.released_counts import images_to_tell
from ppfl.learning.study_model import StudyModel
from ppfl.learning.training import train_locally
from ppfl.settings import SiteFile, Study
from sites.agreement import Agreement
from sites.approval import check_approval
from sites.closing import closing_plan, join_splits
from sites.kept_answer import KeptAnswer, task_digest
from sites.leaving import left_items
from sites.mean_xrays import classes_held, xrays_to_add
from sites.personal import PERSONAL_MODEL, personalise
from sites.phase import Phase
from sites.requests import Answer, ReleasedSplit, Request
from sites.totals import OpenedModel, Totals
from sites.traffic import site_traffic
from sites.vectors import enrolment_plan
from sites.witness import Witness
from sites.xrays import SplitName, XRays


def site_seed(study: Study, name: str) -> int:
    """Where a site's training begins to draw, in [0, 2**32).

    Each has its own, so that no two of them shuffle alike, and none depends on a clock.
    """
    sequence = np.random.SeedSequence((study.seed, study.federation.sites.index(name)))
    return int(sequence.generate_state(1, np.uint32)[0])


class Hospital:
    """One site of one study, for one request.

    Args:
        site: the hospital's own settings; all paths come from there.

    Raises:
        SettingsError: the site's copy of the study cannot be read, does not name this site, or is
            not the one that was approved, or the installed code is not.
    """

    def __init__(self, site: SiteFile) -> None:
        self.site = site
        check_approval(site)
        self.study = Study.read(site.study)
        if site.name not in self.study.federation.sites:
            raise StudyMismatchError(f"study {self.study.name} has no site {site.name}")
        site.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.journal = Journal(site.work / "journal.jsonl")
        self._agreement = Agreement(site, self.study)
        self._phase = Phase(site.work)
        self._witness = Witness(site, self.study, self.journal)
        self._totals = Totals(site, self.study)
        self._xrays = XRays(site, self.study)
        self._kept = KeptAnswer(site.work, site=site.name, study=self.study.fingerprint())
        keep_freed_memory()
        if site.threads:
            torch.set_num_threads(site.threads)

    def enroll(self, request: Request) -> Answer:
        """The site's sealed counts and pixel sums, after comparing studies.

        Raises:
            PpflError: the study, its start, the key or the data cannot be used.
        """
        self._agreement.check(request)
        self._totals.keep_start(request)
        self._tell_traffic(request)
        with self._phase.enter("enroll", request.round_number):
            data = self._xrays.images("train")
            if left_out := self._xrays.left_out():
                self.journal.write(LabelsLeftOut(site=self.site.name, labels=left_out))
            integers = {
                "images": np.asarray(len(data.labels)),
                "class_images": np.bincount(data.labels, minlength=len(self.study.classes)),
                "pixels": np.asarray(pixel_sums(data)),
            }
            if self.study.mean_xray_size:
                integers["class_sites"] = classes_held(self.study, data.labels)
            plan = enrolment_plan(self.study)
            sealed = plan.seal(self._totals.suite, round_number=0, integers=integers)
        what = "sealed vector: counts of images and sums of pixels"
        return self._leave(request, Answer(sealed=sealed.vector.to_bytes()), what)

    def add_xrays(self, request: Request) -> Answer:
        """The site's sealed sums of X-rays, added up without the private key.

        Raises:
            PpflError: the study makes no mean X-rays, or as for ``enroll`` and ``release``.
        """
        self._agreement.check(request)
        sums = XRaySums(self.study, self._totals.public_suite)
        with self._phase.enter("open", request.round_number):
            enrolled = self._totals.enrolment(request)

        def add() -> Answer:
            with self._phase.enter("add X-rays", request.round_number) as step:
                data = self._xrays.images("train")
                sealed = sums.seal(xrays_to_add(self.study, data, enrolled, step))
            return Answer(sealed=sealed.to_bytes())

        task = task_digest("add_xrays", request, enrolled)
        answer, again = self._kept_or_made(request, task, add)
        what = "sealed vector: sums of the X-rays of each class"
        return self._leave(request, answer, what, again=again)

    def release_xrays(self, request: Request) -> Answer:
        """The federation's mean X-rays, opened from the sum of all sites' X-rays.

        Raises:
            PpflError: the study makes none, the sum is not one that it allows to be opened, or
                another sum was opened before.
        """
        self._agreement.check(request)
        with self._phase.enter("open", request.round_number):
            means = self._totals.mean_xrays(request)
        return self._leave(request, Answer(mean_xrays=means))

    def train(self, request: Request) -> Answer:
        """The site's sealed update for a round; asked again for the same one, the same bytes.

        Raises:
            PpflError: the request is not of this study or round, the total is not one the study
                allows to be opened, or training failed.
        """
        self._agreement.check_round(request)
        with self._phase.enter("open", request.round_number):
            enrolled = self._totals.enrolment(request)
        # what stays here is what this run has made of it
        run = request.run if self.study.keeps_at_site else ""
        task = task_digest("train", request, enrolled, run=run)
        countersignature = self._countersign(request)
        answer, again = self._kept_or_made(request, task, lambda: self._update(request, enrolled))
        answer = replace(answer, countersignature=countersignature)
        self._agreement.remember(request)
        what = "sealed vector: the update, and counts of validation"
        return self._leave(request, answer, what, again=again)

    def catch_up(self, request: Request) -> Answer:
        """How far the server optimiser has come here, after a step over the total in the request.

        Raises:
            PpflError: the study has no server optimiser, or as for ``train``.
        """
        self._agreement.check(request)
        with self._phase.enter("open", request.round_number):
            history = self._totals.catch_up(request)
        return self._leave(request, Answer(history=history))

    def close(self, request: Request) -> Answer:
        """The sealed counts of the final model, which the site opens, tests and keeps.

        Raises:
            PpflError: as for ``train``.
        """
        number = request.round_number
        self._agreement.check_round(request)
        self._require_all_rounds(request)
        with self._phase.enter("open", number):
            enrolled = self._totals.enrolment(request)
            opened = self._model(request)
        model, released = opened.network, opened.released
        countersignature = self._countersign(request)
        self._kept.forget()  # the last round is closed
        normalisation = self._normalisation(enrolled)
        digest = self._keep(model, number - 1, normalisation)
        counts: dict[ReleasedSplit, EvaluationCounts] = {}
        with self._phase.enter("evaluate", number):
            for split in ("validation", "test"):
                counts[split] = self._evaluate(model, split, normalisation)
        if self.study.training.personalise_epochs:
            counts["personal"] = self._personal(model, number, normalisation)
        with self._phase.enter("seal", number):
            integers = join_splits({split: c.as_arrays() for split, c in counts.items()})
            plan = closing_plan(self.study)
            sealed = plan.seal(self._totals.suite, round_number=number, integers=integers)
        answer = Answer(
            sealed=sealed.vector.to_bytes(),
            released=released,
            released_round=number - 2,
            model_sha256=digest,
            class_images=images_to_tell(
                enrolled.integers["class_images"].tolist(),
                self.study.classes,
                self.study.federation.release_floor,
            ),
            seconds=self._phase.seconds,
            countersignature=countersignature,
        )
        return self._leave(request, answer, "sealed vector: counts of validation and test")

    def release(self, request: Request) -> Answer:
        """The federation's metrics of the final model, opened from the sum of all sites' counts.

        Raises:
            PpflError: the sum is not one the study allows to be opened, or rounds are left.
        """
        self._agreement.check(request)
        self._require_all_rounds(request)
        with self._phase.enter("open", request.round_number):
            released = self._totals.closing(request)
        return self._leave(
            request, Answer(released=released, released_round=request.round_number - 1)
        )

    def _require_all_rounds(self, request: Request) -> None:
        """Refuse to tell early what a study tells at its end."""
        rounds = self.study.training.rounds
        if request.round_number != rounds + 1:
            raise RoundError(
                f"asked to close the study after round {request.round_number - 1} of {rounds}"
            )

    # What is sealed once, however often it is asked for

    def _kept_or_made(
        self, request: Request, task: str, make: Callable[[], Answer]
    ) -> tuple[Answer, bool]:
        """The answer that was kept for a task, or else one made now; whether it was kept."""
        kept = self._kept.read(task)
        if kept.sealed:
            return kept, True
        made = make()
        kept = self._kept.read(task)  # of a process that Flower had given up, and that went on
        if kept.sealed:
            return kept, True
        self._kept.write(task, made, round_number=request.round_number)
        return made, False

    def _update(self, request: Request, enrolled: Opened) -> Answer:
        number = request.round_number
        with self._phase.enter("open", number):
            opened = self._model(request)
        model, controls = opened.network, opened.controls
        start = self._totals.shared(model)
        normalisation = self._normalisation(enrolled)
        suite, plan = self._totals.suite, self._totals.update_plan(model)
        with suite.preparing(plan.values):
            with self._phase.enter("evaluate", number):
                counts = self._evaluate(model, "validation", normalisation)
            with self._phase.enter("train", number) as step:
                data = self._xrays.images("train")
                result = train_locally(
                    model,
                    data,
                    self.study.training,
                    classes=len(self.study.classes),
                    normalisation=normalisation,
                    round_number=number,
                    seed=self._seed,
                    corrections=controls.corrections(),
                    progress=step,
                    deadline_s=self.study.federation.deadline_s,
                )
        with self._phase.enter("seal", number):
            trained = self._totals.shared(model)
            weight = len(data.labels) / int(enrolled.integers["images"])
            own_control = controls.after(start, trained, rates=result.rates, weight=weight)
            sealed = plan.seal(
                suite,
                round_number=number,
                integers=counts.as_arrays(),
                parameters=trained | own_control,
                model=start | controls.federation,
                weight=weight,
            )
            wire = sealed.vector.to_bytes()
            # not before: a failed round leaves no trace
            self._totals.keep_own(model, own_control, request)
        return Answer(
            sealed=wire,
            released=opened.released,
            released_round=number - 2,
            model_sha256=parameters_sha256(start),
            seconds=self._phase.seconds | {"ahead": round(suite.ahead_s, 3)},
            clipped=sealed.clipped,
        )

    def _model(self, request: Request) -> OpenedModel:
        """The model in the total; if that is none, whether it was this site that spoiled it."""
        try:
            return self._totals.model(request)
        except (MalformedMessageError, RoundError, StudyMismatchError):
            last = request.round_number - 1
            try:
                self._totals.check_own(self._kept.sealed_in(last), round_number=last)
            except OwnVectorError:
                self._kept.forget()  # or it would be sent again
                raise
            raise

    def _countersign(self, request: Request) -> str:
        """The site's signature under the record of the last round, if it is what the site knows."""
        last = self._kept.digest_in(request.round_number - 1)
        return self._witness.countersign(request, own_sha256=last)

    # Images

    def _evaluate(
        self, model: nn.Module, split: SplitName, normalisation: tuple[float, float]
    ) -> EvaluationCounts:
        classes = len(self.study.classes)
        return evaluate(
            model, self._xrays.images(split), classes=classes, normalisation=normalisation
        )

    def _normalisation(self, enrolled: Opened) -> tuple[float, float]:
        """Mean and standard deviation of a pixel in [0, 1], the same at every site."""
        if self.study.images.normalisation != "federation":
            return self.study.images.normalisation
        pixels, total, squares = (int(number) for number in enrolled.integers["pixels"])
        return normalisation_of(pixels, total, squares)

    @property
    def _seed(self) -> int:
        return site_seed(self.study, self.site.name)

    # What stays, and what leaves

    def _tell_traffic(self, request: Request) -> None:
        """Write down how much is going to leave and to come."""
        traffic = site_traffic(self.study, self._totals.suite, request.start)
        self.journal.write(
            WillSend(
                site=self.site.name,
                rounds=self.study.training.rounds,
                round_bytes_up=traffic.round_up,
                round_bytes_down=traffic.round_down,
                study_bytes_up=traffic.all_up,
                study_bytes_down=traffic.all_down,
            )
        )

    def _personal(
        self, model: nn.Module, number: int, normalisation: tuple[float, float]
    ) -> EvaluationCounts:
        """The test counts of the site's personal model, after it was trained and kept."""
        with self._phase.enter("train", number) as step:
            personalise(
                model,
                self._xrays.images("train"),
                self.study,
                normalisation=normalisation,
                seed=self._seed,
                progress=step,
            )
        self._write(model, normalisation, PERSONAL_MODEL)
        with self._phase.enter("evaluate", number):
            return self._evaluate(model, "test", normalisation)

    def _write(self, model: nn.Module, normalisation: tuple[float, float], name: str) -> None:
        """Write a model to a file of the site's folder."""
        kept = StudyModel(
            model,
            self.study.model.architecture,
            self.study.classes,
            self.study.images.size,
            normalisation,
            self.study.images.cipher,
            group_norm=self.study.model.batch_norm == "group",
            equalise=self.study.images.equalise,
        )
        kept.write(self.site.work / name, study=self.study.fingerprint())

    def _keep(self, model: nn.Module, rounds: int, normalisation: tuple[float, float]) -> str:
        """Write the model of so many rounds to the site's folder; its digest."""
        self._write(model, normalisation, "model.safetensors")
        digest = parameters_sha256(self._totals.shared(model))
        self.journal.write(ModelKept(round=rounds, site=self.site.name, sha256=digest))
        return digest

    def _leave(
        self, request: Request, answer: Answer, sealed: str = "", *, again: bool = False
    ) -> Answer:
        """Write down what leaves this hospital, then let it."""
        protection = self._totals.suite.protection if answer.sealed else ""
        self.journal.write(
            LeftHospital(
                run=request.run,
                round=request.round_number,
                site=self.site.name,
                items=left_items(answer, sealed=sealed, protection=protection),
                again=again,
            )
        )
        self._phase.finish(request.round_number, of=len(answer.sealed))
        return answer
