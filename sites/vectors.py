"""The kinds of vectors that the sites of a study send; the coordinator reads lengths here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import PackedSuite, Suite, UnsafePlaintextSuite
from ppfl.crypto import EngineName, PrivateKey, PublicKey, create_engine
from ppfl.errors import KeyMismatchError, SettingsError
from ppfl.federation import VectorPlan
from ppfl.learning.metrics import EvaluationCounts
from ppfl.settings import Study
from sites.control_variates import Shapes, control_shapes


def enrolment_plan(study: Study) -> VectorPlan:
    """What a site tells once: training images, images of each class, and sums over its pixels.

    Where mean X-rays are made, also of which classes it has enough to take part in them.
    """
    integers = {"images": (), "class_images": (len(study.classes),), "pixels": (3,)}
    if study.mean_xray_size:
        integers["class_sites"] = (len(study.classes),)
    return VectorPlan(study, parameters={}, integers=integers)


def update_plan(study: Study, shapes: Shapes) -> VectorPlan:
    """What a site tells in each round: its parameters, and counts of how the model did.

    ``shapes`` are those of the parameters that the study averages; SCAFFOLD's control variates come
    behind them.
    """
    controls = control_shapes(shapes) if study.training.optimiser == "scaffold" else {}
    return VectorPlan(study, parameters={**shapes, **controls}, integers=count_shapes(study))


def create_suite(
    study: Study,
    public: PublicKey | None,
    private: PrivateKey | None = None,
    *,
    engine: EngineName = "auto",
    threads: int = 0,
) -> Suite:
    """How this study's vectors are sealed.

    Raises:
        SettingsError: the study is encrypted and there is no key, or the engine cannot run.
        KeyMismatchError: the key is not the one the study names.
    """
    bits = {
        "value_bits": study.encryption.value_bits,
        "headroom_bits": study.headroom_bits,
    }
    if study.encryption.custody == "unsafe_plaintext":
        return UnsafePlaintextSuite(**bits)
    if public is None:
        raise SettingsError(f"study {study.name} is encrypted, but no key is given")
    require_study_key(study, public)
    arithmetic = create_engine(
        public, private, name=engine, threads=threads or None, s=study.encryption.s
    )
    return PackedSuite(arithmetic, **bits)


def require_study_key(study: Study, public: PublicKey) -> None:
    """Check that a key is the one that a study names.

    Raises:
        KeyMismatchError: it is not.
    """
    if public.fingerprint != study.encryption.key_fingerprint:
        raise KeyMismatchError(
            f"study {study.name} names key {study.encryption.key_fingerprint[:16]}…, "
            f"this key is {public.fingerprint[:16]}…",
            hint="compare the fingerprints with the other sites by telephone",
        )


def shapes_of(parameters: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes, in order."""
    return {name: array.shape for name, array in parameters.items()}


def count_shapes(study: Study) -> Shapes:
    """Shapes of the counts of one split's evaluation."""
    counts = EvaluationCounts.empty(len(study.classes)).as_arrays()
    return {name: array.shape for name, array in counts.items()}
