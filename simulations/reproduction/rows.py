"""The rows of the experiment: one federated training each, which show X-rays in different ways."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError, RunError
from ppfl.federation import read_journal
from ppfl.federation.journal import AnyEvent, StudyStarted
from ppfl.learning.study_model import StudyModel
from ppfl.report import Summary, summarise
from ppfl.settings import SiteFile, Study, read_settings
from simulations.prepare import prepare
from simulations.runner import run_in_process
from simulations.scenario import Scenario, read_scenario
from sites.xrays import XRays


@dataclass(frozen=True, slots=True)
class Row:
    """One way of showing X-rays to the network.

    ``encryption`` says in plain words whether it is any; ``changes`` are the settings in which its
    study differs from the plain one. A network takes ``longer`` to see through a code book than to
    read a picture; ``--quick`` has no time for that.
    """

    key: str
    name: str
    encryption: str
    changes: tuple[str, ...] = ()
    longer: bool = False


_FIXED = "images.cipher=unsafe_fixed_randomness"
_HIGHEST = 'images.cipher_bytes="highest"'
_OWN = 'images.cipher_secret="site"'
_LONGER = ("training.rounds=10", "training.local_epochs=3", "training.learning_rate=1e-3")

ROWS = (
    Row(
        "a", "plain X-rays", "None: the X-rays never leave the hospital, and lie there as they are."
    ),
    Row(
        "b",
        "X-rays from the vault",
        "Yes. On the disk each X-ray is a Paillier ciphertext with fresh randomness; it is opened "
        "in memory for training.",
        ("simulation.vault=true",),
    ),
    Row(
        "c",
        "cipher images, fixed randomness",
        "No. A secret code book: equal pixels stay equal, so some bytes show the picture to the "
        "naked eye, and the public key alone turns whole ciphertexts into it.",
        (_FIXED,),
        longer=True,
    ),
    Row(
        "d",
        "cipher images, fixed randomness, % 256",
        "No. A code book; a byte alone can no longer be decrypted by anyone.",
        ("images.cipher=unsafe_low_byte",),
    ),
    Row(
        "e",
        "cipher images, fresh randomness",
        "Yes, and therefore nothing can be learnt from them.",
        # small, because a pixel costs an encryption of its own
        ("images.cipher=fresh_randomness", "images.size=32"),
    ),
    Row(
        "f",
        "cipher images, ρ = 1",
        "No. The plain X-ray, multiplied by a public number.",
        ("images.cipher=unsafe_no_randomness", _HIGHEST),
    ),
)

MORE = (
    Row(
        "ch",
        "as (c), the ciphertext's highest bytes",
        "No. The same code book; these bytes are harder to read, until someone looks at others.",
        (_FIXED, _HIGHEST),
        longer=True,
    ),
    Row("al", "plain X-rays, trained as long as (c)", "None.", longer=True),
    Row(
        "g",
        "as (c), each site its own ρ",
        "No. A code book for each site, which the public key opens all the same.",
        (_FIXED, _OWN),
        longer=True,
    ),
    Row(
        "h",
        "as (g), stem local to each site",
        "No. A code book for each site, which the public key opens all the same.",
        (_FIXED, _OWN, 'model.local_layers=["features.0"]'),
        longer=True,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a row's final models say of all sites' test images, in no particular order.

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
    """A row after its training: its study, how the run went, and what its models say.

    ``minutes`` are from enrolment to test; making keys and sealing a vault is not in them.
    """

    study: Study
    summary: Summary
    predictions: Predictions
    train_images: int
    minutes: float


def row_scenario(row: Row, *, data: Path, quick: bool, changes: Sequence[str]) -> Scenario:
    """A row's scenario on some data, with the row's changes and then others."""
    source = "reproduce-quick" if quick else "reproduce"
    longer = _LONGER if row.longer and not quick else ()
    return read_scenario(source, data=data, changes=[*row.changes, *longer, *changes])


def prepare_row(scenario: Scenario, folder: Path) -> None:
    """Make the folder of a row, if it was not made before.

    Raises:
        RunError: it was made for other settings.
        PpflError: as for ``prepare``.
    """
    if (folder / "study.toml").exists():
        kept = read_settings(folder / "scenario.toml", Scenario)
        if kept != scenario:
            raise RunError(
                f"{folder}: was begun with other settings or other X-rays", hint="another --out"
            )
        return
    if folder.exists():
        shutil.rmtree(folder)  # begun and cut off: its key is lost with it
    prepare(scenario, folder)


def run_row(folder: Path) -> Outcome:
    """Train a row, from its start or from its last complete round; a complete one is only read.

    Raises:
        PpflError: the study failed; or its sites' models do not do as well as they told the
            coordinator, which cannot be.
    """
    journal = folder / "journal.jsonl"
    if not journal.exists() or summarise(read_journal(journal)).closed is None:
        run_in_process(folder)
    events = read_journal(journal)
    summary = summarise(events)
    study = Study.read(folder / "study.toml")
    predictions, train_images = _predict(study, folder)
    told = summary.test.get("accuracy")
    if told is not None and abs(predictions.correct.mean() - told) > 1e-6:
        raise RunError(
            f"{folder}: the models are right in {predictions.correct.mean():.4f} of cases, the "
            f"federation said {told:.4f}"
        )
    return Outcome(study, summary, predictions, train_images, _minutes(events))


def site_files(study: Study, folder: Path) -> list[SiteFile]:
    """The sites of a row."""
    return [SiteFile.read(folder / "sites" / name / "site.toml") for name in study.federation.sites]


def _minutes(events: Sequence[AnyEvent]) -> float:
    """What the run took, without the pauses before it was resumed."""
    steps = [
        (after.time - before.time).total_seconds()
        for before, after in pairwise(events)
        if not isinstance(after, StudyStarted)
    ]
    return round(sum(steps) / 60, 2)


def _predict(study: Study, folder: Path) -> tuple[Predictions, int]:
    """The sites' predictions, and how many images they trained on."""
    probabilities, labels, groups, train_images = [], [], [], 0
    for site in site_files(study, folder):
        xrays = XRays(site, study)
        train_images += len(xrays.records("train"))
        images = xrays.images("test")
        model = StudyModel.read(site.work / "model.safetensors")
        if len(images.labels):
            probabilities.append(model.predict(images.images))
            labels.append(images.labels)
            groups.append(np.array(images.groups))
    if not labels:
        raise DataError(f"{folder}: no site holds an X-ray to test on")
    found = Predictions(
        np.concatenate(probabilities), np.concatenate(labels), np.concatenate(groups)
    )
    return found, train_images
