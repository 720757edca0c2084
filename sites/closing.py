"""The closing counts: how the final model did on both splits, in one vector."""

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

CLOSING_SPLITS: tuple[ReleasedSplit, ...] = get_args(ReleasedSplit)
"""The splits that are counted at the end, in their order in the vector."""

T = TypeVar("T")


def closing_plan(study: Study) -> VectorPlan:
    """What a site tells at the end: counts of how the final model did, on both splits."""
    shapes = count_shapes(study)
    integers = join_splits(dict.fromkeys(CLOSING_SPLITS, shapes))
    return VectorPlan(study, parameters={}, integers=integers)


def join_splits(by_split: Mapping[ReleasedSplit, Mapping[str, T]]) -> dict[str, T]:
    """The counts of every split under the names that they have in the vector."""
    return {
        f"{split}.{name}": count
        for split in CLOSING_SPLITS
        for name, count in by_split[split].items()
    }


def part_splits(integers: Integers) -> dict[ReleasedSplit, dict[str, NDArray[np.int64]]]:
    """The counts of each split, from the integers of such a vector."""
    return {
        split: {
            name.removeprefix(f"{split}."): array
            for name, array in integers.items()
            if name.startswith(f"{split}.")
        }
        for split in CLOSING_SPLITS
    }
