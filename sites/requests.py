"""What passes between the coordinator and a hospital, without any transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Parameters = dict[str, NDArray[np.float32]]
ReleasedSplit = Literal["validation", "test", "personal"]
Released = Mapping[ReleasedSplit, dict[str, Any]]
"""The federation's metrics by split, at the end with the counts behind them.

Empty where too few images stand behind them. ``personal`` is the test split again, each site's
images under its personal model.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What the coordinator asks of a site.

    ``enrolled`` and ``total`` are sums on the wire, empty where there is none yet;
    ``first_enrolled`` is the sum of enrolment that the run's first round had, where it is another
    than ``enrolled``: sites have joined or left, and pixels are normalised as before. ``record`` is
    the signed line of the coordinator's journal about the round that ``total`` is of; ``history``
    is the digest of all totals up to ``total``, in a study with a server optimiser only; ``start``
    holds the public starting parameters, at enrolment and to a site that must begin anew.
    """

    study: str
    run: str
    round_number: int
    enrolled: bytes = b""
    first_enrolled: bytes = b""
    total: bytes = b""
    record: bytes = b""
    history: str = ""
    start: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What leaves the hospital: a sealed vector, and a few things in the clear.

    ``released`` maps a split to the federation's metrics for the model after
    ``released_round`` rounds; ``model_sha256`` is the digest of the model the site opened;
    ``mean_xrays`` maps a class to the pixels of the federation's mean X-ray, 8-bit grey row by row,
    in base64; ``class_images`` maps a class to how many images of it all sites train on;
    ``countersignature`` is the site's under the record it was shown, hexadecimal; ``history`` is
    the digest of the totals that the site's optimiser has stepped over.
    """

    sealed: bytes = b""
    released: Released = field(default_factory=dict)
    released_round: int = 0
    model_sha256: str = ""
    mean_xrays: Mapping[str, str] = field(default_factory=dict)
    class_images: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    clipped: int = 0
    countersignature: str = ""
    history: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a site did not do what was asked: a code and a sentence that tell nothing else."""

    site: str
    code: str
    sentence: str
