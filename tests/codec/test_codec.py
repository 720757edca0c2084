from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppfl.codec import (
    PackedSuite,
    Quantizer,
    SealedVector,
    SlotLayout,
    Suite,
    TailField,
    TailLayout,
    UnsafePlaintextSuite,
    ranges_of,
)
from ppfl.codec.ranges import extents_of
from ppfl.codec.wire import Expected
from ppfl.crypto import PrivateKey, create_engine
from ppfl.errors import (
    KeyMismatchError,
    MalformedMessageError,
    NotFiniteError,
    QuorumError,
    SettingsError,
    ValueRangeError,
)


@given(
    value_bits=st.integers(1, 40),
    headroom_bits=st.integers(0, 16),
    plaintext_bits=st.sampled_from([71, 255, 2047, 3071]),
    values=st.integers(0, 400),
    seed=st.integers(0, 2**32),
)
def test_slots_come_back_at_every_size(
    value_bits: int, headroom_bits: int, plaintext_bits: int, values: int, seed: int
) -> None:
    layout = SlotLayout(value_bits, headroom_bits, plaintext_bits)
    drawn = np.random.default_rng(seed).integers(0, 2**value_bits, values)
    assert (layout.unpack(layout.pack(drawn), values) == drawn).all()


def test_the_most_summands_at_the_largest_value_stay_in_their_slots() -> None:
    layout = SlotLayout(16, 3, 2047)
    packed = layout.pack(np.full(300, 2**16 - 1))
    width = layout.plaintext_bytes
    rows = [int.from_bytes(packed[i : i + width], "little") for i in range(0, len(packed), width)]
    sums = b"".join((8 * row).to_bytes(width, "little") for row in rows)
    assert (layout.unpack(sums, 300) == 8 * (2**16 - 1)).all()


def test_slots_refuse_what_they_did_not_make() -> None:
    layout = SlotLayout(8, 2, 71)
    with pytest.raises(ValueRangeError):
        layout.pack(np.array([256]))
    with pytest.raises(MalformedMessageError, match="needed"):
        layout.unpack(b"", 3)
    with pytest.raises(MalformedMessageError, match="no value lies"):
        layout.unpack(b"\xff" * layout.plaintext_bytes, 3)
    with pytest.raises(SettingsError):
        SlotLayout(60, 4, 3071)


def test_the_opened_average_is_the_exact_integer_average() -> None:
    rng = np.random.default_rng(1)
    model = {"w": rng.normal(size=(7, 5)).astype(np.float32), "b": np.zeros(5, np.float32)}
    shapes = {name: array.shape for name, array in model.items()}
    quantizer = Quantizer(shapes, ranges_of(model), 16)
    weights = [2**30, 2**31, 2**30]
    sites = [
        {n: (a + rng.normal(scale=0.01, size=a.shape)).astype(np.float32) for n, a in model.items()}
        for _ in weights
    ]
    parts = [quantizer.quantize(s, weight=w) for s, w in zip(sites, weights, strict=True)]
    assert all(part.clipped == 0 for part in parts)
    sums = np.sum([part.values for part in parts], axis=0)
    average = quantizer.dequantize(sums, summands=3, weight=sum(weights))
    steps = extents_of(quantizer.ranges)[:7, None] / (2**15 - 1)
    integers = sum(part.values[:35] - 2**15 for part in parts).reshape(7, 5)
    assert (average["w"] == (integers * steps).astype(np.float32)).all()
    exact = sum(w / 2**32 * s["w"].astype(float) for w, s in zip(weights, sites, strict=True))
    assert (np.abs(average["w"] - exact) <= 1.5 * steps).all()


@given(st.floats(0, 1e6, width=32))
def test_a_range_is_wide_enough_and_an_eighth_too_wide_at_most(largest: float) -> None:
    model = {"w": np.array([[largest, -largest / 2], [0, 0]], np.float32)}
    extents = extents_of(ranges_of(model))
    wanted = np.array([2 * largest + 0.1, 0.1])
    assert (extents >= wanted).all()
    assert (extents <= wanted * 1.126).all()


def test_a_small_channel_beside_a_large_one_keeps_its_digits() -> None:
    rows = np.linspace(-1, 1, 18, dtype=np.float32).reshape(2, 9)
    model = {"w": rows * np.array([[56], [0.03]], np.float32)}
    quantizer = Quantizer({"w": (2, 9)}, ranges_of(model), 12)
    sums = 4 * quantizer.quantize(model, weight=2**30).values
    average = quantizer.dequantize(sums, summands=4, weight=2**32)
    assert np.abs(average["w"][1] - model["w"][1]).max() < 0.03 / 100
    assert np.abs(average["w"][0] - model["w"][0]).max() < 56 / 400


def test_the_quantizer_counts_what_it_clips_and_refuses_nan() -> None:
    model = {"w": np.ones(4, np.float32)}
    quantizer = Quantizer({"w": (4,)}, ranges_of(model), 12)
    far = {"w": np.array([9, -9, 0, 2], np.float32)}
    assert quantizer.quantize(far, weight=2**32).clipped == 2
    with pytest.raises(NotFiniteError, match="w holds"):
        quantizer.quantize({"w": np.full(4, np.nan, np.float32)}, weight=1)
    with pytest.raises(MalformedMessageError):
        quantizer.quantize({"v": np.ones(4, np.float32)}, weight=1)
    with pytest.raises(MalformedMessageError):
        quantizer.dequantize(np.zeros(4, np.int64), summands=1, weight=0)


def test_a_small_variance_beside_a_large_one_survives_rounding() -> None:
    variances = np.array([0.0, 1e-6, 1e-4, 1e-2, 1.0, 40.0], np.float32)
    means = np.array([-3.0, -1e-3, 0.0, 1e-3, 1e-2, 2.0], np.float32)
    model = {"norm.running_mean": means, "norm.running_var": variances}
    shapes = {name: array.shape for name, array in model.items()}
    for value_bits in (8, 12, 16, 20, 40):
        quantizer = Quantizer(shapes, ranges_of(model), value_bits)
        sums = 4 * quantizer.quantize(model, weight=2**30).values
        average = quantizer.dequantize(sums, summands=4, weight=2**32)
        # what batch norm divides by, with torch's eps
        was, now = np.sqrt(variances + 1e-5), np.sqrt(average["norm.running_var"] + 1e-5)
        assert np.abs(now / was - 1).max() < 0.04
        assert np.abs(average["norm.running_mean"] - means).max() < 1e-6


def test_tail_sums_are_exact() -> None:
    layout = TailLayout({"a": TailField(()), "b": TailField((2, 2), bits=8)}, 13)
    assert layout.values == 5 + 4
    one = {"a": np.array(2**60 - 1), "b": np.arange(4).reshape(2, 2)}
    opened = layout.decode(3 * layout.encode(one))
    assert int(opened["a"]) == 3 * (2**60 - 1)
    assert (opened["b"] == 3 * one["b"]).all()
    with pytest.raises(ValueRangeError):
        layout.encode({"a": np.array(-1), "b": one["b"]})
    with pytest.raises(ValueRangeError, match="b holds"):
        layout.encode({"a": one["a"], "b": np.full((2, 2), 256)})
    with pytest.raises(MalformedMessageError):
        layout.encode({"a": one["a"]})
    with pytest.raises(MalformedMessageError):
        layout.decode(np.zeros(1, np.int64))
    with pytest.raises(ValueRangeError):
        layout.decode(9 * layout.encode(one))


def test_golden_bytes_of_a_sealed_vector() -> None:
    vector = SealedVector("packed", "ab" * 32, 5, 1, (b"xyz",))
    golden = (
        b"PPFLSEAL\x01\x00packed"
        + b"\0" * 10
        + b"\xab" * 32
        + b"\x05\0\0\0\0\0\0\0"
        + b"\x01\0\0\0"
        + b"\x01\0"
        + b"\x03\0\0\0\0\0\0\0"
        + b"xyz"
    )
    assert vector.to_bytes() == golden
    expected = Expected("packed", "ab" * 32, 5, (3,))
    assert SealedVector.from_bytes(golden, expected) == vector
    with pytest.raises(KeyMismatchError):
        SealedVector.from_bytes(golden, Expected("packed", "cd" * 32, 5, (3,)))
    for position in [*range(26), 58, 66, 70, 72]:  # all but the fingerprint and the part
        bad = bytearray(golden)
        bad[position] ^= 0x80
        if position == 66:
            continue  # summands may be any number above 0
        with pytest.raises(MalformedMessageError):
            SealedVector.from_bytes(bytes(bad), expected)
    for cut in range(len(golden)):
        with pytest.raises(MalformedMessageError):
            SealedVector.from_bytes(golden[:cut], expected)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_both_suites_open_the_same_sums(unsafe_key: PrivateKey, s: int) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, s=s)
    suites = (
        PackedSuite(engine, value_bits=16, headroom_bits=1),
        UnsafePlaintextSuite(value_bits=16, headroom_bits=1),
    )
    rng = np.random.default_rng(2)
    left, right = rng.integers(0, 2**16, (2, 99))
    for suite in suites:
        total = suite.add(suite.add(None, suite.seal(left)), suite.seal(right))
        again = suite.read(total.to_bytes(), values=99)
        assert (suite.open(again) == left + right).all()
        with pytest.raises(QuorumError):
            suite.add(total, suite.seal(left))
        with pytest.raises(ValueRangeError):
            suite.seal(np.array([2**16]))


def test_a_larger_s_takes_fewer_bytes(unsafe_key: PrivateKey) -> None:
    public = unsafe_key.public
    sizes, words = [], []
    for s in (1, 2, 3):
        suite = PackedSuite(create_engine(public, s=s), value_bits=16, headroom_bits=1)
        vector = suite.seal(np.zeros(10_000, np.int64))
        assert suite.part_bytes(10_000) == (len(vector.parts[0]),)
        sizes.append(len(vector.parts[0]))
        words.append(suite.protection)
    assert sizes[1] / sizes[0] == pytest.approx(3 / 4, abs=0.02)
    assert sizes[2] / sizes[0] == pytest.approx(2 / 3, abs=0.02)
    assert words == [
        "Paillier, 256 bits",
        "Paillier (Damgård–Jurik, s = 2), 256 bits",
        "Paillier (Damgård–Jurik, s = 3), 256 bits",
    ]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_sum_of_rows_is_that_of_their_seals(unsafe_key: PrivateKey, rows: int) -> None:
    drawn = np.random.default_rng(rows).integers(0, 256, (rows, 50))
    for suite in _suites(unsafe_key):
        total = suite.seal_sum(drawn)
        assert total.summands == rows
        assert (suite.open(total) == drawn.sum(axis=0)).all()
        with pytest.raises(QuorumError, match="more than 8"):
            suite.seal_sum(np.zeros((9, 50), np.int64))
        with pytest.raises(ValueRangeError):
            suite.seal_sum(np.full((rows, 50), 256))


def test_joined_vectors_add_and_open_where_they_lie(unsafe_key: PrivateKey) -> None:
    for suite in _suites(unsafe_key):
        pieces = [suite.seal_sum(np.full((2, 50), 3)), suite.seal(np.arange(50))]
        joined = suite.join(pieces)
        assert joined.summands == 1
        assert suite.read(joined.to_bytes(), values=joined.values) == joined
        start = suite.whole(50)
        assert joined.values == start + 50
        sums = suite.open(suite.add(joined, joined))
        assert (sums[:50] == 12).all()
        assert not sums[50:start].any()
        assert (sums[start:] == 2 * np.arange(50)).all()


def _suites(key: PrivateKey) -> list[Suite]:
    packed = PackedSuite(create_engine(key.public, key), value_bits=16, headroom_bits=0)
    plain = UnsafePlaintextSuite(value_bits=16, headroom_bits=0)
    return [suite.with_slots(value_bits=8, headroom_bits=3) for suite in (packed, plain)]
