"""The closing counts: how the final model did on each split, in one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import Integers
from ppfl.federation import VectorPlan
from ppfl.settings import Study
from sites.requests import ReleasedSplit
from sites.vectors import count_shapes

T = TypeVar("T")


def closing_plan(study: Study) -> VectorPlan:
    """What a site tells at the end: counts of how the final model did, on both splits.

    In a study with personal models, also of how each site's own did on its test images.
    """
    splits: list[ReleasedSplit] = ["validation", "test"]
    if study.training.personalise_epochs:
        splits.append("personal")
    integers = join_splits(dict.fromkeys(splits, count_shapes(study)))
    return VectorPlan(study, parameters={}, integers=integers)


def join_splits(by_split: Mapping[ReleasedSplit, Mapping[str, T]]) -> dict[str, T]:
    """The counts of every split under the names that they have in the vector."""
    return {
        f"{split}.{name}": count
        for split, counts in by_split.items()
        for name, count in counts.items()
    }


def part_splits(integers: Integers) -> dict[ReleasedSplit, dict[str, NDArray[np.int64]]]:
    """The counts of each split, from the integers of such a vector."""
    parts: dict[ReleasedSplit, dict[str, NDArray[np.int64]]] = {}
    for split in get_args(ReleasedSplit):
        prefix = f"{split}."
        counts = {n.removeprefix(prefix): a for n, a in integers.items() if n.startswith(prefix)}
        if counts:
            parts[split] = counts
    return parts
