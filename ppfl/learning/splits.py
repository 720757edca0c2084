"""Who gets which X-rays: training, validation and test at a site, and sites in a simulation.

References:
    [McMahan17] McMahan et al., Communication-efficient learning of deep networks from
        decentralized data, AISTATS 2017.
    [Yurochkin19] Yurochkin et al., Bayesian nonparametric federated learning of neural networks,
        ICML 2019.
    [Hsu19] Hsu, Qi, Brown, Measuring the effects of non-identical data distribution for federated
        visual classification, arXiv 1909.06335.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ppfl.errors import DataError, SettingsError
from ppfl.learning.sources import ImageRecord
from ppfl.settings.study import Section

_FEW = 10


@dataclass(frozen=True, slots=True)
class Split:
    """A site's X-rays, no group of them on two sides."""

    train: tuple[ImageRecord, ...]
    validation: tuple[ImageRecord, ...]
    test: tuple[ImageRecord, ...]


class Partition(Section):
    """How a simulation deals one collection of X-rays out to its sites."""

    kind: Literal["iid", "column", "dirichlet", "pathological"] = Field(
        "iid",
        description="`iid`: every site the same mix of classes; `column`: the hospitals of the "
        "table's column site; `dirichlet`: every class in random shares; `pathological`: every "
        "site a few classes only",
    )
    shares: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (), description="iid: relative sizes of the sites; empty: equal"
    )
    alpha: float = Field(
        0.5, ge=1e-3, le=1e6, description="dirichlet: the smaller, the more sites differ"
    )
    classes_per_site: int = Field(2, ge=1, description="pathological: classes a site holds")

    @model_validator(mode="after")
    def _shares_are_for_iid(self) -> Self:
        if self.shares and self.kind != "iid":
            raise ValueError(f"shares are for kind iid, not {self.kind}")
        return self


def split_by_group(
    records: Sequence[ImageRecord], *, validation: float, test: float, seed: int
) -> Split:
    """The records in three parts, each in the order given.

    ``validation`` and ``test`` are shares of groups in [0, 1), together below 1. A group's side
    depends on the seed and its name alone, so sites that share a patient agree on the side, and a
    patient's new X-rays join the old ones. The price is that shares are met only on average.

    A site so small that no group falls to training trains on all it has: it then holds nothing
    back, and this is the one case in which two sites may disagree.

    Raises:
        DataError: there are no records.
        SettingsError: the shares leave nothing to train on.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise SettingsError(
            f"validation {validation} and test {test} must be shares that leave some to train on"
        )
    if not records:
        raise DataError("no X-rays to split")
    train, held_back, tested = [], [], []
    for record in records:
        number = _number_of(record.group, seed=seed)
        if number < test:
            tested.append(record)
        elif number < test + validation:
            held_back.append(record)
        else:
            train.append(record)
    if not train:
        return Split(tuple(records), (), ())
    return Split(tuple(train), tuple(held_back), tuple(tested))


def partition_records(
    records: Sequence[ImageRecord], *, sites: Sequence[str], how: Partition, seed: int
) -> dict[str, list[ImageRecord]]:
    """The records of each site, in the order given; the same seed deals the same.

    Except by column, a group goes to one site whole, counted under the class most of it shows.

    - ``iid``: every class in the sites' shares, as near as whole groups allow.
    - ``column``: as the table says. A patient known at two hospitals stays at both, as in life;
      `split_by_group` keeps such a patient on one side at either. Other hospitals are left out.
    - ``dirichlet``: every class in shares drawn from Dir(alpha) over the sites [Yurochkin19];
      [Hsu19] draws every site's mix of classes instead. A site short of 10 images, or of half an
      equal share if that is fewer, then gets groups of the site that has most.
    - ``pathological``: every site holds ``classes_per_site`` classes [McMahan17, §3], every class
      at as equal a number of sites as possible. Left out: a class beyond what the sites can hold,
      and a group's odd image of a class that its site does not hold.

    Raises:
        SettingsError: the sites or shares are not distinct, named and as many as needed, or more
            classes per site are asked for than there are.
        DataError: a site would be left without an X-ray, or is not in the column.
    """
    if not sites or len(set(sites)) != len(sites):
        raise SettingsError(f"sites must have distinct names, at least one; got {list(sites)}")
    if how.kind == "column":
        held = _by_column(records, sites)
    else:
        held = _by_chance(records, sites, how, np.random.default_rng(seed))
    empty = [site for site in sites if not held[site]]
    if empty:
        raise DataError(
            f"no X-rays for {', '.join(empty)}: {len(records)} X-rays in "
            f"{len({record.group for record in records})} groups for {len(sites)} sites",
            hint="name fewer sites, or only such as the table's column site has",
        )
    return held


def _number_of(group: str, *, seed: int) -> float:
    """A number in [0, 1) that is as good as random, yet the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _by_column(
    records: Sequence[ImageRecord], sites: Sequence[str]
) -> dict[str, list[ImageRecord]]:
    return {site: [record for record in records if record.site == site] for site in sites}


def _by_chance(
    records: Sequence[ImageRecord], sites: Sequence[str], how: Partition, rng: np.random.Generator
) -> dict[str, list[ImageRecord]]:
    classes = sorted({record.label for record in records})
    sizes = Counter(record.group for record in records)
    shares = _shares_of(how, classes, len(sites), rng)
    groups = _shuffled_groups(records, classes, sizes, rng)
    owner = _deal(groups, sizes, shares, sites=len(sites))
    if how.kind == "dirichlet":
        owner = _level(owner, sizes, sites=len(sites))
    held: dict[str, list[ImageRecord]] = {site: [] for site in sites}
    for record in records:
        index = owner.get(record.group)
        if index is None or (how.kind == "pathological" and not shares[record.label][index]):
            continue
        held[sites[index]].append(record)
    return held


def _shares_of(
    how: Partition, classes: Sequence[str], sites: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """For each class the (sites,) shares of it, which sum to 1, or to 0 if nobody holds it."""
    if how.kind == "dirichlet":
        return {label: rng.dirichlet(np.full(sites, how.alpha)) for label in classes}
    if how.kind == "pathological":
        if how.classes_per_site > len(classes):
            raise SettingsError(
                f"classes_per_site is {how.classes_per_site}, but there are {len(classes)} classes"
            )
        order = rng.permutation(len(classes))
        holds = np.zeros((len(classes), sites))
        for place in range(sites * how.classes_per_site):
            holds[order[place % len(classes)], place // how.classes_per_site] = 1
        return {label: row / max(row.sum(), 1) for label, row in zip(classes, holds, strict=True)}
    if how.shares and len(how.shares) != sites:
        raise SettingsError(f"{len(how.shares)} shares for {sites} sites")
    equal = np.asarray(how.shares or (1.0,) * sites)
    return {label: equal / equal.sum() for label in classes}


def _shuffled_groups(
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, list[str]]:
    """For each class the groups that mostly show it: large ones first, else in random order."""
    shown: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        shown[record.group][record.label] += 1
    members: dict[str, list[str]] = {label: [] for label in classes}
    for group in sorted(shown):
        members[max(sorted(shown[group]), key=shown[group].__getitem__)].append(group)
    return {
        label: sorted(
            (groups[i] for i in rng.permutation(len(groups))), key=lambda group: -sizes[group]
        )
        for label, groups in members.items()
    }


def _deal(
    groups: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    shares: Mapping[str, NDArray[np.float64]],
    *,
    sites: int,
) -> dict[str, int]:
    """The site of each group: always the one that is furthest short of its share."""
    owner: dict[str, int] = {}
    overall = np.zeros(sites)
    for label, members in groups.items():
        if not shares[label].any():
            continue
        short = shares[label] * sum(sizes[group] for group in members)
        overall += short
        for group in members:
            # Between sites equally short of this class, shortness of all classes decides.
            site = max(range(sites), key=lambda i: (short[i], overall[i]))
            owner[group] = site
            short[site] -= sizes[group]
            overall[site] -= sizes[group]
    return owner


def _level(owner: Mapping[str, int], sizes: Mapping[str, int], *, sites: int) -> dict[str, int]:
    """The owners after the richest sites gave small groups to those that have next to nothing."""
    owner = dict(owner)
    least = max(1, min(_FEW, sum(sizes.values()) // (2 * sites)))
    for _ in range(len(owner) + 1):
        images: Counter[int] = Counter({site: 0 for site in range(sites)})
        for group, site in owner.items():
            images[site] += sizes[group]
        poorest = min(images, key=images.__getitem__)
        if images[poorest] >= least:
            return owner
        groups = Counter(owner.values())
        richest = max(images, key=lambda site: (groups[site] > 1, images[site]))
        given = min((g for g in owner if owner[g] == richest), key=sizes.__getitem__)
        owner[given] = poorest
    raise DataError(
        f"{sum(sizes.values())} X-rays in {len(sizes)} groups cannot give each of {sites} sites "
        f"at least {least}",
        hint="name fewer sites",
    )
