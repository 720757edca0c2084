"""What a federation is compared with, trained beside it: each cut-off goes on at its last round."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ppfl.errors import RunError
from ppfl.files import replace_private
from ppfl.learning.files import load_model, save_model
from ppfl.learning.images import ImageSet, normalisation_of, pixel_sums
from ppfl.learning.memory import keep_freed_memory
from ppfl.learning.models import build_study_model, get_parameters, set_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.learning.training import train_locally
from ppfl.settings import Section, SiteFile, Study, TrainingOptions, read_settings
from simulations.outcome import finish_run, prepare_or_resume, site_files
from simulations.scenario import Scenario, draft_study
from sites.hospital import site_seed
from sites.xrays import XRays

BASELINES = "baselines"
"""The folder of a run in which its baselines are trained."""

_PLAINTEXT = "unsafe_plaintext"
_UNROUNDED_BITS = 40  # the most that a study allows; a float32 has 24


class Trained(Section):
    """What a training without a federation took; ``minutes`` leave out pauses."""

    images: int
    steps: int
    minutes: float


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A model that was trained without a federation, and what that took."""

    model: StudyModel
    trained: Trained


def train_local(study: Study, folder: Path, name: str, tell: Callable[[str], None]) -> Baseline:
    """A site's model of its own: as many steps as in the federation, with the same seed.

    Raises:
        PpflError: its X-rays cannot be used, or training failed.
    """
    sites = [site for site in site_files(study, folder) if site.name == name]
    place = folder / BASELINES / f"local-{name}"
    return _train(study, folder, sites, place, seed=site_seed(study, name), tell=tell)


def train_pooled(
    study: Study, folder: Path, tell: Callable[[str], None], *, shared: Path | None = None
) -> Baseline:
    """The model of all sites' X-rays in one place: as many passes over each as in the federation.

    So it takes as many steps as all sites together, also where the study counts steps and not
    passes. Its seed is that of the first site.

    In a folder ``shared`` it is kept for all studies that train alike on the same X-rays, however
    these lie at the sites; the first of them trains it, in the order in which its sites hold them.

    Raises:
        PpflError: X-rays cannot be used, or training failed.
    """
    seed = site_seed(study, study.federation.sites[0])
    sites = site_files(study, folder)
    if shared is None:
        return _train(study, folder, sites, folder / BASELINES / "pooled", seed=seed, tell=tell)
    place = shared / f"pooled-{_digest(study, sites, seed=seed)[:16]}"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # or two processes would train the same
        return _train(study, folder, sites, place, seed=seed, tell=tell)


def run_without_encryption(folder: Path, *, rounded: bool = True) -> Path:
    """Where the same federation ran over the same X-rays from the same seed, unsafe_plaintext.

    Its values are rounded as under encryption, and its models are the same, bit for bit; or they
    are not ``rounded``, but for the last of so many bits that a float32 has fewer.

    Raises:
        PpflError: as for ``prepare`` and ``finish_run``.
    """
    plain = folder / BASELINES / ("plaintext" if rounded else "unrounded")
    # floats are added in another order on another number of threads
    threads = site_files(Study.read(folder / "study.toml"), folder)[0].threads
    prepare_or_resume(_in_the_clear(folder, rounded=rounded), plain, threads=threads)
    finish_run(plain)
    return plain


def check_without_encryption(folder: Path) -> None:
    """Make sure that a run's study can be trained without encryption.

    Raises:
        SettingsError: it cannot.
    """
    draft_study(_in_the_clear(folder, rounded=True))


def _in_the_clear(folder: Path, *, rounded: bool) -> Scenario:
    """A run's scenario without encryption."""
    scenario = read_settings(folder / "scenario.toml", Scenario)
    encryption = scenario.study.get("encryption", {}) | {"custody": _PLAINTEXT}
    if not rounded:
        encryption["value_bits"] = _UNROUNDED_BITS
    study = scenario.study | {"encryption": encryption}
    # a vault gives the same images, and cannot be opened without a key
    simulation = scenario.simulation.model_copy(update={"vault": False})
    return Scenario(study=study, simulation=simulation)


def _train(
    study: Study,
    folder: Path,
    sites: Sequence[SiteFile],
    place: Path,
    *,
    seed: int,
    tell: Callable[[str], None],
) -> Baseline:
    """Train on some sites' images together, from the study's start, round by round."""
    kept, done = place / "model.safetensors", place / "trained.json"
    if done.exists():
        try:
            return Baseline(StudyModel.read(kept), Trained.model_validate_json(done.read_bytes()))
        except ValidationError:
            raise RunError(f"{done}: damaged", hint="remove it to train anew") from None
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_freed_memory()
    options = without_federation(study.training, sites=len(sites))
    classes = len(study.classes)
    data = _join([XRays(site, study).images("train") for site in sites])
    normalisation = study.images.normalisation
    if normalisation == "federation":
        normalisation = normalisation_of(*pixel_sums(data))
    network = build_study_model(study)
    last, first, steps, seconds = place / "last.safetensors", 1, 0, 0.0
    parameters, metadata = load_model(last if last.exists() else folder / "start.safetensors")
    if last.exists():
        first, steps = int(metadata["rounds"]) + 1, int(metadata["steps"])
        seconds = float(metadata["seconds"])
    set_parameters(network, parameters)
    for number in range(first, options.rounds + 1):
        began = time.monotonic()
        result = train_locally(
            network,
            data,
            options,
            classes=classes,
            normalisation=normalisation,
            round_number=number,
            seed=seed,
        )
        steps, seconds = steps + result.steps, seconds + time.monotonic() - began
        tell(f"  {place.name}: round {number} of {options.rounds}, {seconds:.0f} s")
        progress = {"rounds": str(number), "steps": str(steps), "seconds": str(seconds)}
        save_model(last, get_parameters(network), metadata=progress)
    model = StudyModel(
        network,
        study.model.architecture,
        study.classes,
        study.images.size,
        normalisation,
        study.images.cipher,
        group_norm=study.model.batch_norm == "group",
        equalise=study.images.equalise,
    )
    model.write(kept, study=study.fingerprint())
    trained = Trained(images=len(data.labels), steps=steps, minutes=round(seconds / 60, 2))
    replace_private(done, [trained.model_dump_json().encode()])  # last: with it, it is done
    last.unlink(missing_ok=True)
    return Baseline(model, trained)


def _digest(study: Study, sites: Sequence[SiteFile], *, seed: int) -> str:
    """Of all that a training without a federation depends on, but for the images' order."""
    records = sorted(
        [str(record.path), record.label, record.group]
        for site in sites
        for record in XRays(site, study).records("train")
    )
    training = without_federation(study.training, sites=len(sites))
    options = study.images, study.model, training
    told = [study.classes, seed, *(each.model_dump(mode="json") for each in options), records]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def without_federation(options: TrainingOptions, *, sites: int) -> TrainingOptions:
    """The options without what corrects a site's steps for others' sake, for all sites' steps."""
    changes: dict[str, object] = {"proximal_mu": 0.0, "logit_adjustment": 0.0}
    changes["personalise_epochs"] = 0
    changes["local_steps"] = sites * options.local_steps  # 0 where passes are counted
    if options.optimiser == "scaffold":
        changes["optimiser"] = "sgd"
    return options.model_copy(update=changes)


def _join(parts: Sequence[ImageSet]) -> ImageSet:
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(group for part in parts for group in part.groups),
    )
