from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ppfl.errors import DataError, SettingsError
from ppfl.learning.sources import ImageRecord
from ppfl.learning.splits import Partition, partition_records, split_by_group

SITES = ("north", "south", "west")


def collection(groups: list[tuple[str, int]]) -> list[ImageRecord]:
    """Records of groups given as (class, images); of every third group an image is of class b."""
    return [
        ImageRecord(
            Path(f"/{g:04}/{i}.png"),
            "b" if g % 3 == 0 and i == 1 else label,
            f"g{g}",
            SITES[g % 3],
        )
        for g, (label, images) in enumerate(groups)
        for i in range(images)
    ]


groups = st.tuples(st.sampled_from("abc"), st.integers(1, 4))
collections = st.lists(groups, min_size=1, max_size=60).map(collection)
large_collections = st.lists(groups, min_size=20, max_size=60).map(collection)
partitions = st.one_of(
    st.just(Partition()),
    st.just(Partition(shares=(5, 2, 1))),
    st.floats(1e-3, 10).map(lambda alpha: Partition(kind="dirichlet", alpha=alpha)),
    st.just(Partition(kind="pathological", classes_per_site=1)),
    st.just(Partition(kind="pathological", classes_per_site=2)),
)


@given(collections, st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 2**32 - 1))
def test_no_group_is_on_two_sides(
    records: list[ImageRecord], validation: float, test: float, seed: int
) -> None:
    split = split_by_group(records, validation=validation, test=test, seed=seed)
    sides = (split.train, split.validation, split.test)
    groups = [{record.group for record in side} for side in sides]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert sorted(r.path for side in sides for r in side) == [r.path for r in records]
    assert split.train


@given(collections, st.integers(0, 2**32 - 1), st.data())
def test_sites_that_share_a_patient_agree(
    records: list[ImageRecord], seed: int, data: st.DataObject
) -> None:
    here = data.draw(st.lists(st.sampled_from(records), min_size=1, unique_by=id))
    whole = split_by_group(records, validation=0.2, test=0.3, seed=seed)
    part = split_by_group(here, validation=0.2, test=0.3, seed=seed)
    assume(any(record in whole.train for record in here))  # else all of it goes to training
    assert set(part.train) <= set(whole.train)
    assert set(part.validation) <= set(whole.validation)
    assert set(part.test) <= set(whole.test)


def test_the_side_of_a_group_never_changes() -> None:
    records = collection([("a", 1)] * 12)
    split = split_by_group(records, validation=0.2, test=0.3, seed=2022)
    assert [record.group for record in split.test] == ["g0", "g1", "g3", "g10", "g11"]
    assert [record.group for record in split.validation] == ["g5", "g6", "g9"]


def test_shares_are_met_on_average() -> None:
    records = collection([("a", 1)] * 5000)
    split = split_by_group(records, validation=0.1, test=0.2, seed=7)
    assert len(split.validation) == pytest.approx(500, abs=80)
    assert len(split.test) == pytest.approx(1000, abs=110)
    other = split_by_group(records, validation=0.1, test=0.2, seed=8)
    assert other.test != split.test


def test_a_site_with_one_image_trains_on_it() -> None:
    for record in collection([("a", 1)] * 20):
        split = split_by_group([record], validation=0.3, test=0.6, seed=1)
        assert (split.train, split.validation, split.test) == ((record,), (), ())


def test_a_split_needs_records_and_shares_that_leave_some() -> None:
    with pytest.raises(DataError, match="no X-rays to split"):
        split_by_group([], validation=0.1, test=0.2, seed=1)
    records = collection([("a", 1)])
    for validation, test in ((0.5, 0.5), (-0.1, 0.2), (0.1, float("nan"))):
        with pytest.raises(SettingsError, match="must be shares that leave some to train on"):
            split_by_group(records, validation=validation, test=test, seed=1)


@given(large_collections, partitions, st.integers(0, 2**32 - 1))
def test_groups_stay_whole_and_the_seed_decides(
    records: list[ImageRecord], how: Partition, seed: int
) -> None:
    try:
        held = partition_records(records, sites=SITES, how=how, seed=seed)
    except (DataError, SettingsError):
        assume(False)
    assert held == partition_records(records, sites=SITES, how=how, seed=seed)
    assert list(held) == list(SITES)
    assert all(held.values())
    groups = [{record.group for record in mine} for mine in held.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    dealt = [record.path for mine in held.values() for record in mine]
    assert len(set(dealt)) == len(dealt)
    if how.kind != "pathological":
        assert sorted(dealt) == [record.path for record in records]
    else:
        assert all(len({r.label for r in mine}) <= how.classes_per_site for mine in held.values())


@given(st.lists(st.integers(1, 3), min_size=9, max_size=60), st.integers(0, 99))
def test_iid_gives_every_site_the_same_mix(sizes: list[int], seed: int) -> None:
    records = [
        ImageRecord(Path(f"/{g}/{i}"), "ab"[g % 2], f"g{g}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    held = partition_records(records, sites=SITES, how=Partition(), seed=seed)
    for label in "ab":
        counts = [sum(record.label == label for record in mine) for mine in held.values()]
        assert max(counts) - min(counts) <= 3


def test_iid_in_unequal_shares() -> None:
    records = collection([("a", 2), ("c", 1)] * 200)
    held = partition_records(records, sites=SITES, how=Partition(shares=(3, 2, 1)), seed=4)
    assert [len(mine) for mine in held.values()] == pytest.approx([300, 200, 100], abs=4)


def test_another_seed_deals_differently() -> None:
    records = collection([("a", 1)] * 50)
    one, two = (partition_records(records, sites=SITES, how=Partition(), seed=s) for s in (1, 2))
    assert one != two


def test_the_column_is_taken_as_it_is() -> None:
    records = [
        ImageRecord(Path("/1"), "a", "p", "north"),
        ImageRecord(Path("/2"), "a", "p", "south"),
        ImageRecord(Path("/3"), "a", "q", "west"),
    ]
    how = Partition(kind="column")
    held = partition_records(records, sites=["south", "north"], how=how, seed=1)
    assert held == {"south": [records[1]], "north": [records[0]]}
    with pytest.raises(DataError, match="no X-rays for east"):
        partition_records(records, sites=["north", "east"], how=how, seed=1)


def test_dirichlet_is_the_more_uneven_the_smaller_alpha() -> None:
    records = collection([("a", 1), ("c", 1)] * 300)

    def largest_share(alpha: float) -> float:
        how = Partition(kind="dirichlet", alpha=alpha)
        held = partition_records(records, sites=SITES, how=how, seed=3)
        return max(
            count / len(records) * 2
            for mine in held.values()
            for label, count in Counter(record.label for record in mine).items()
            if label != "b"
        )

    assert largest_share(1000) < 0.4
    assert largest_share(0.01) > 0.6


def test_dirichlet_leaves_no_site_with_next_to_nothing() -> None:
    records = collection([("a", 2)] * 100)
    sites = [f"s{i}" for i in range(10)]
    how = Partition(kind="dirichlet", alpha=0.001)
    held = partition_records(records, sites=sites, how=how, seed=5)
    assert min(map(len, held.values())) >= 10


def test_dirichlet_gives_up_where_whole_groups_do_not_suffice() -> None:
    records = [ImageRecord(Path(f"/{i}"), "a", "one" if i < 30 else f"g{i}") for i in range(32)]
    with pytest.raises(DataError, match="32 X-rays in 3 groups cannot give each of 3 sites"):
        partition_records(records, sites=SITES, how=Partition(kind="dirichlet"), seed=1)


def test_pathological_has_every_class_held_by_someone() -> None:
    records = [ImageRecord(Path(f"/{i}"), f"c{i % 6}", f"g{i}") for i in range(120)]
    how = Partition(kind="pathological", classes_per_site=2)
    held = partition_records(records, sites=SITES, how=how, seed=6)
    assert {record for mine in held.values() for record in mine} == set(records)
    assert all(len({record.label for record in mine}) == 2 for mine in held.values())
    assert len(set().union(*({record.label for record in mine} for mine in held.values()))) == 6


def test_pathological_leaves_out_what_no_site_can_hold() -> None:
    records = [ImageRecord(Path(f"/{i}"), f"c{i % 4}", f"g{i}") for i in range(40)]
    how = Partition(kind="pathological", classes_per_site=1)
    held = partition_records(records, sites=SITES, how=how, seed=6)
    assert sum(map(len, held.values())) == 30


def test_settings_that_do_not_fit_the_collection() -> None:
    records = collection([("a", 1), ("c", 2)] * 9)
    for sites in ([], ["north", "north"]):
        with pytest.raises(SettingsError, match="distinct names"):
            partition_records(records, sites=sites, how=Partition(), seed=1)
    with pytest.raises(SettingsError, match="2 shares for 3 sites"):
        partition_records(records, sites=SITES, how=Partition(shares=(1, 2)), seed=1)
    how = Partition(kind="pathological", classes_per_site=9)
    with pytest.raises(SettingsError, match="classes_per_site is 9, but there are 3 classes"):
        partition_records(records, sites=SITES, how=how, seed=1)
    with pytest.raises(DataError, match="no X-rays for west: 2 X-rays in 2 groups for 3 sites"):
        partition_records(records[:2], sites=SITES, how=Partition(), seed=1)


def test_a_partition_refuses_shares_it_would_not_use() -> None:
    with pytest.raises(ValidationError, match="shares are for kind iid, not column"):
        Partition(kind="column", shares=(1, 2))
    with pytest.raises(ValidationError):
        Partition(shares=(1, 0))
