"""The sums that a hospital opens: the only place at a site where the private key is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppfl.codec import Suite
from ppfl.crypto import PrivateKey, read_private_key
from ppfl.errors import (
    EnrolmentError,
    MalformedMessageError,
    OwnVectorError,
    RoundError,
    StaleRoundError,
    StudyMismatchError,
)
from ppfl.federation import Opened, VectorPlan
from ppfl.federation.xray_sums import XRaySums
from ppfl.files import replace_private
from ppfl.learning.files import load_model, parameters_sha256, save_model
from ppfl.learning.metrics import EvaluationCounts, compute_metrics
from ppfl.learning.models import (
    build_study_model,
    get_parameters,
    local_names,
    set_parameters,
    shared_names,
)
from ppfl.learning.released_counts import ReleasedCounts, may_tell_by_class
from ppfl.settings import SiteFile, Study
from sites.closing import closing_plan, part_splits
from sites.control_variates import ControlVariates, control_shapes, is_control
from sites.local_layers import LocalLayers
from sites.mean_xrays import means_to_release
from sites.requests import Parameters, Released, ReleasedSplit, Request
from sites.server_states import ServerStates
from sites.vectors import create_suite, enrolment_plan, shapes_of, update_plan

_WITHOUT_CLASSES: dict[str, Any] = {  # of these figures, too, a class of few images could be told
    "classes": {},
    "confusion": [],
    "balanced_accuracy": None,
    "macro_auroc": None,
}
_RELEASED_DIGITS = 6  # two machines may differ in the last bits of a float, never in these


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """What a round begins with: the model, its metrics on all sites, and control variates."""

    network: nn.Module
    released: Released
    controls: ControlVariates


class Totals:
    """Opens the sums of a study at one site, and keeps what of a model never leaves it."""

    def __init__(self, site: SiteFile, study: Study) -> None:
        self._site, self._study = site, study
        self._start_file = site.work / "start.safetensors"
        self._local_layers = LocalLayers(site.work, study=study.fingerprint())
        self._server_states = ServerStates(site.work, study)

    @cached_property
    def suite(self) -> Suite:
        """How the site's vectors are sealed, with the private key where there is one.

        Raises:
            KeyMaterialError: the key cannot be read, or is not the study's.
            SettingsError: there is no key, or no passphrase.
        """
        return self._create_suite(self._key)

    @cached_property
    def public_suite(self) -> Suite:
        """The same without the private key: it seals and adds, but opens nothing.

        Raises:
            PpflError: as for ``suite``.
        """
        return self._create_suite(None)

    def enrolment(self, request: Request) -> Opened:
        """The counts of all enrolled sites together; sums of pixels are those of the first round.

        Raises:
            EnrolmentError: it is no sum that the study allows to be opened. Below, the error says
                in what way a total is none; here, only that it is not a round's total.
        """
        plan = enrolment_plan(self._study)
        try:
            opened = self._open(plan, request.enrolled, round_number=0)
            if not request.first_enrolled:
                return opened
            first = self._open(plan, request.first_enrolled, round_number=0)
            pixels = {"pixels": first.integers["pixels"]}
            return replace(opened, integers=opened.integers | pixels)
        except (MalformedMessageError, RoundError, StudyMismatchError) as error:
            raise EnrolmentError(f"enrolment: {error}") from None

    def keep_start(self, request: Request) -> None:
        """Keep the starting parameters, which come once, for whenever the site needs them.

        Raises:
            MalformedMessageError: they are not those whose digest the study names.
            ModelError: the network cannot be built, or has no such layers as the study keeps
                local.
        """
        self._check_start(request.start)
        shared_names(get_parameters(self._build()), self._study.model)
        save_model(self._start_file, request.start, metadata={})

    def mean_xrays(self, request: Request) -> dict[str, str]:
        """The federation's mean X-rays by class, as an answer carries them.

        Raises:
            StaleRoundError: this site has opened another sum of X-rays in this study before.
                Two sums, one with a site and one without, would show that site's X-rays alone.
        """
        sums = XRaySums(self._study, self.suite)
        total = sums.suite.read(request.total, values=sums.values)
        # by study, because a hospital's folder may see more than one
        opened = self._site.work / f"xrays-{self._study.fingerprint()[:16]}.sha256"
        digest = hashlib.sha256(request.total).hexdigest()
        if opened.exists() and opened.read_text(encoding="ascii") != digest:
            raise StaleRoundError(
                f"another sum of X-rays was opened before; {opened.name} can be removed once all "
                "sites have agreed to a second one"
            )
        sums.check(total)  # one that is refused is not in the way of the right one
        replace_private(opened, [digest.encode()])  # first: a kill must not allow a second sum
        return means_to_release(sums.open(total))

    def model(self, request: Request) -> OpenedModel:
        """The model of the round before, and what came with it.

        It is the average of all sites, or the server optimiser's step towards it, this site's own
        local layers, and what is not trained. A site that has trained no local layers yet begins
        with those of the start.

        Raises:
            BehindError: the study has a server optimiser, whose state is not here.
            PpflError: the total is none that the study allows to be opened, or a file is damaged.
        """
        model, number = self._build(), request.round_number
        parameters = get_parameters(model)
        average, released = self._average(request, model)
        shared = {name: array for name, array in average.items() if not is_control(name)}
        if len(shared) < len(parameters):
            parameters |= self._start()
        own = {}
        if self._study.keeps_at_site:
            own = self._local_layers.before(number, run=request.run)
            parameters |= {name: array for name, array in own.items() if not is_control(name)}
        set_parameters(model, parameters | shared)
        controls = ControlVariates()
        if self._study.training.optimiser == "scaffold":
            shapes = control_shapes(shapes_of(self.shared(model)))
            zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            controls = ControlVariates(*(_update(zeros, known) for known in (average, own)))
        return OpenedModel(model, released, controls)

    def catch_up(self, request: Request) -> str:
        """The history of the totals that the server optimiser here has stepped over.

        Where the request has a total, that is stepped over first.

        Raises:
            StudyMismatchError: the study has no server optimiser.
            PpflError: as for ``model``.
        """
        if self._study.training.server_optimiser == "average":
            raise StudyMismatchError("a study without a server optimiser has nothing to catch up")
        if request.start:
            self.keep_start(request)
        if request.total:
            self._average(request, self._build())
        return self._server_states.history()

    def _average(self, request: Request, model: nn.Module) -> tuple[Parameters, Released]:
        """What the sites' last round comes to, control variates too, and the metrics with it."""
        last = request.round_number - 1
        if last == 0:
            return {}, {}
        opened = self._open(self.update_plan(model), request.total, round_number=last)
        average = opened.parameters
        if self._study.training.server_optimiser != "average":
            start = self._start()
            average = self._server_states.step(
                average,
                {name: start[name] for name in average},
                round_number=last,
                total=request.total,
                history=request.history,
            )
        return average, self._release("validation", opened.integers)

    def closing(self, request: Request) -> Released:
        """The metrics of the final model, on both splits, and the counts that curves are made of.

        Raises:
            PpflError: the total is none that the study allows to be opened.
        """
        opened = self._open(
            closing_plan(self._study), request.total, round_number=request.round_number
        )
        released: dict[ReleasedSplit, dict[str, Any]] = {}
        for split, counts in part_splits(opened.integers).items():
            released.update(self._release(split, counts, with_counts=True))
        return released

    def check_own(self, sealed: bytes, *, round_number: int) -> None:
        """Make sure that this site's own update of a round is what it should be.

        Args:
            sealed: the vector as it was kept here, never one that came from elsewhere; empty
                where none was kept.
            round_number: the round.

        Raises:
            OwnVectorError: it is not.
        """
        if not sealed:
            return
        plan = self.update_plan(self._build())
        try:
            vector = self.suite.read(sealed, values=plan.values)
            plan.read(self.suite.open(vector), round_number=round_number, own=True)
        except (MalformedMessageError, RoundError, StudyMismatchError) as error:
            raise OwnVectorError(f"this site's own vector: {error}") from None

    def shared(self, model: nn.Module) -> Parameters:
        """The parameters that the study averages."""
        parameters = get_parameters(model)
        return {name: parameters[name] for name in shared_names(parameters, self._study.model)}

    def keep_own(self, model: nn.Module, own_control: Parameters, request: Request) -> None:
        """Keep, for the next round, the local layers and the site's own control variate, if any.

        Raises:
            NotFiniteError: one of them is NaN or infinite.
            ModelError: they cannot be written.
        """
        parameters = get_parameters(model)
        local = local_names(parameters, self._study.model)
        own = {name: parameters[name] for name in local} | own_control
        if own:
            self._local_layers.keep(own, round_number=request.round_number, run=request.run)

    def update_plan(self, model: nn.Module) -> VectorPlan:
        """What lies in an update of this model."""
        return update_plan(self._study, shapes_of(self.shared(model)))

    def _build(self) -> nn.Module:
        return build_study_model(self._study)

    def _start(self) -> Parameters:
        parameters, _ = load_model(self._start_file)
        self._check_start(parameters)
        return parameters

    def _check_start(self, parameters: Parameters) -> None:
        if parameters_sha256(parameters) != self._study.model.start_sha256:
            raise MalformedMessageError(
                "the starting parameters are not those whose digest the study names"
            )

    @cached_property
    def _key(self) -> PrivateKey | None:
        site = self._site
        if site.key is None:
            return None
        return read_private_key(site.key, passphrase=site.passphrase())

    def _create_suite(self, private: PrivateKey | None) -> Suite:
        site, public = self._site, self._key.public if self._key else None
        return create_suite(self._study, public, private, engine=site.engine, threads=site.threads)

    def _open(self, plan: VectorPlan, wire: bytes, *, round_number: int) -> Opened:
        vector = self.suite.read(wire, values=plan.values)
        return plan.open(self.suite, vector, round_number=round_number)

    def _release(
        self,
        split: ReleasedSplit,
        integers: Mapping[str, NDArray[np.int64]],
        *,
        with_counts: bool = False,
    ) -> Released:
        """The metrics, unless they rest on so few images that one might be told."""
        counts = EvaluationCounts.from_arrays(dict(integers))
        floor = max(1, self._study.federation.release_floor)
        if int(counts.confusion.sum()) < floor:
            return {}
        metrics = compute_metrics(counts, self._study.classes).to_dict()
        rounded: dict[str, Any] = _rounded(metrics)
        if not may_tell_by_class(counts, floor):
            return {split: rounded | _WITHOUT_CLASSES}
        if with_counts:
            rounded["counts"] = ReleasedCounts.of(counts, floor=floor).to_dict()
        return {split: rounded}


def _update(zeros: Parameters, known: Parameters) -> Parameters:
    """Those of the arrays that are known, in the order of the zeros, which stand for the others."""
    return {name: known.get(name, zero) for name, zero in zeros.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _RELEASED_DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
