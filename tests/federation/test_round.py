from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from ppfl.codec import PackedSuite, SealedVector
from ppfl.crypto import PrivateKey, create_engine
from ppfl.errors import (
    ClippingError,
    DuplicateAnswerError,
    MalformedMessageError,
    QuorumError,
    RoundError,
    RunError,
    StaleRoundError,
    StudyMismatchError,
)
from ppfl.federation import Aggregation, Checkpoint, VectorPlan
from ppfl.settings import Study

_SITES = ("a", "b", "c")
_MODEL = {"w": np.linspace(-1, 1, 20, dtype=np.float32)}


def _study(name: str = "s") -> Study:
    table = {"name": name, "classes": ["x", "y"], "federation": {"sites": _SITES}}
    return Study.model_validate(table)


@pytest.fixture
def suite(unsafe_key: PrivateKey) -> PackedSuite:
    engine = create_engine(unsafe_key.public, unsafe_key)
    return PackedSuite(engine, value_bits=_study().encryption.value_bits, headroom_bits=2)


@pytest.fixture
def plan() -> VectorPlan:
    return VectorPlan(_study(), parameters={"w": (20,)}, integers={"n": ()})


def _answers(plan: VectorPlan, suite: PackedSuite, number: int = 1) -> dict[str, bytes]:
    answers = {}
    for position, site in enumerate(_SITES):
        sealed = plan.seal(
            suite,
            round_number=number,
            integers={"n": np.array(position)},
            parameters={"w": _MODEL["w"] + np.float32(position / 10)},
            model=_MODEL,
            weight=(position + 1) / 6,
        )
        answers[site] = sealed.vector.to_bytes()
    return answers


def _aggregation(plan: VectorPlan, suite: PackedSuite) -> Aggregation:
    return Aggregation(suite, values=plan.values, sites=_SITES, minimum_sites=2)


def test_any_order_gives_the_same_average(plan: VectorPlan, suite: PackedSuite) -> None:
    answers, opened = _answers(plan, suite), []
    for order in permutations(_SITES):
        aggregation = _aggregation(plan, suite)
        for site in order:
            aggregation.accept(site, answers[site])
        opened.append(plan.open(suite, aggregation.total(), round_number=1))
    first = opened[0]
    assert first.sites == 3
    assert int(first.integers["n"]) == 3
    expected = _MODEL["w"] + (0.1 * 2 + 0.2 * 3) / 6
    assert np.abs(first.parameters["w"] - expected).max() < 1e-3
    assert all((o.parameters["w"] == first.parameters["w"]).all() for o in opened)


def test_a_site_that_drops_out_leaves_a_right_average(plan: VectorPlan, suite: PackedSuite) -> None:
    aggregation = _aggregation(plan, suite)
    answers = _answers(plan, suite)
    for site in ("a", "c"):
        aggregation.accept(site, answers[site])
    opened = plan.open(suite, aggregation.total(), round_number=1)
    assert np.abs(opened.parameters["w"] - (_MODEL["w"] + 0.2 * 3 / 4)).max() < 1e-3


def test_a_refused_answer_leaves_the_total_alone(plan: VectorPlan, suite: PackedSuite) -> None:
    aggregation, answers = _aggregation(plan, suite), _answers(plan, suite)
    aggregation.accept("a", answers["a"])
    before = aggregation._total
    with pytest.raises(DuplicateAnswerError):
        aggregation.accept("a", answers["a"])
    with pytest.raises(RoundError, match="not asked"):
        aggregation.accept("stranger", answers["b"])
    with pytest.raises(MalformedMessageError):
        aggregation.accept("b", answers["b"][:-1])
    zeroed = answers["b"][:-64] + b"\0" * 64
    with pytest.raises(MalformedMessageError, match="not in"):
        aggregation.accept("b", zeroed)
    with pytest.raises(QuorumError, match="1 of 3"):
        aggregation.total()
    assert aggregation._total is before


def test_sites_open_no_total_of_one_no_other_round_and_no_other_study(
    plan: VectorPlan, suite: PackedSuite
) -> None:
    answers = _answers(plan, suite)
    one = suite.read(answers["a"], values=plan.values)
    with pytest.raises(QuorumError, match="a total of 1 sites"):
        plan.open(suite, one, round_number=1)
    two = suite.add(one, suite.read(answers["b"], values=plan.values))
    with pytest.raises(StaleRoundError):
        plan.open(suite, two, round_number=2)
    other = VectorPlan(_study("other"), parameters={"w": (20,)}, integers={"n": ()})
    with pytest.raises(StudyMismatchError):
        other.open(suite, two, round_number=1)


def test_sites_that_disagree_about_ranges_are_noticed(plan: VectorPlan, suite: PackedSuite) -> None:
    def seal(scale: float) -> SealedVector:
        model = {"w": _MODEL["w"] * np.float32(scale)}
        integers = {"n": np.array(0)}
        sealed = plan.seal(suite, round_number=1, integers=integers, parameters=model, model=model)
        return sealed.vector

    # ranges of 2.1 and 2.34 have neighbouring codes; those of 2.6 and 8.1 are 2 and 16 codes away,
    # so that the sum divides by two as if both sites had the one between
    for scale in (1.12, 1.25, 4.0):
        two = suite.add(seal(1.0), seal(scale))
        with pytest.raises(MalformedMessageError, match="disagree about ranges"):
            plan.open(suite, two, round_number=1)


def test_too_many_clipped_values_are_not_sent(plan: VectorPlan, suite: PackedSuite) -> None:
    with pytest.raises(ClippingError, match="20 of 20"):
        plan.seal(
            suite,
            round_number=1,
            integers={"n": np.array(0)},
            parameters={"w": np.full(20, 99, np.float32)},
            model=_MODEL,
        )


def test_a_checkpoint_is_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.bin"
    with pytest.raises(RunError, match="no checkpoint"):
        Checkpoint.read(path, study="s")
    kept = Checkpoint(study="s", run="r", round_number=3, total=b"sum\nof\nsites")
    kept.write(path)
    assert Checkpoint.read(path, study="s") == kept
    with pytest.raises(StudyMismatchError):
        Checkpoint.read(path, study="t")
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError):
            Checkpoint.read(path, study="s")
    with pytest.raises(RunError, match="cannot be written"):
        kept.write(tmp_path / "missing" / "checkpoint.bin")
