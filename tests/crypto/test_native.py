from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phe import paillier

from ppfl.crypto import (
    EngineChoice,
    EngineName,
    PrivateKey,
    choose_engine,
    create_engine,
    engines,
    generate_key,
    lanes,
)
from ppfl.crypto.gmp import GmpEngine
from ppfl.crypto.keys import ordinary_key
from ppfl.crypto.lanes import AVX2, IFMA, InstructionSet, find_obstacle
from ppfl.crypto.native import Avx2Engine, NativeEngine
from ppfl.errors import InvalidKeyError, MalformedMessageError, SettingsError
from tests.crypto.numbers import foreign as _foreign
from tests.crypto.numbers import vector as _vector

needs_kernel = pytest.mark.skipif(bool(find_obstacle()), reason=find_obstacle())
every_s = pytest.mark.parametrize("s", [1, 2, 3])
NativeName = Literal["native", "native-avx2"]


@pytest.fixture(scope="module", params=["native", "native-avx2"])
def native_name(request: pytest.FixtureRequest) -> NativeName:
    """Engine native by the best instruction set that this processor has, and by AVX2."""
    name: NativeName = request.param
    obstacle = find_obstacle(AVX2 if name == "native-avx2" else None)
    if obstacle:
        pytest.skip(obstacle)
    return name


def _agree(
    key: PrivateKey, name: NativeName, *, s: int, count: int, oracle: EngineName = "reference"
) -> None:
    """All engines, with and without the private key, give the same bytes."""
    public = key.public
    native, gmp, reference, stranger = (
        create_engine(public, key, name=name, threads=2, s=s),
        create_engine(public, key, name="gmp", threads=2, s=s),
        create_engine(public, key, name=oracle, s=s),
        create_engine(public, name=name, threads=2, s=s),
    )
    most = 2**public.randomizer_bits - 1
    exponents = [0, 1, most, *(secrets.randbits(public.randomizer_bits) for _ in range(count))]
    rhos = native.randomizers(exponents)
    assert rhos == stranger.randomizers(exponents) == gmp.randomizers(exponents)
    assert rhos == reference.randomizers(exponents)
    below = native.plaintext_modulus
    numbers = [below - 1, 0, 1, *(secrets.randbelow(below) for _ in range(count))]
    plaintexts = _vector(numbers, native.plaintext_bytes)
    ciphertexts = native.blind(plaintexts, rhos)
    assert ciphertexts == stranger.blind(plaintexts, rhos) == reference.blind(plaintexts, rhos)
    sums = native.add(ciphertexts, rhos)
    assert sums == stranger.add(ciphertexts, rhos) == gmp.add(ciphertexts, rhos)
    assert sums == reference.add(ciphertexts, rhos)
    native.check(sums)
    assert native.decrypt(sums) == gmp.decrypt(sums) == reference.decrypt(sums) == plaintexts


@pytest.mark.parametrize("count", [0, 5, 8])
def test_engines_agree_bit_for_bit(
    native_name: NativeName, full_key: PrivateKey, count: int
) -> None:
    _agree(full_key, native_name, s=1, count=count)


@pytest.mark.parametrize("s", [2, 3])
def test_native_agrees_with_gmp_for_more_than_s_1(
    native_name: NativeName, full_key: PrivateKey, s: int
) -> None:
    _agree(full_key, native_name, s=s, count=8, oracle="gmp")


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "s"), [(2048, 1), (2048, 3), (4096, 1), (4096, 2)])
def test_engines_agree_for_other_lengths_of_keys(
    native_name: NativeName, bits: int, s: int
) -> None:
    _agree(generate_key(bits), native_name, s=s, count=3, oracle="reference" if s == 1 else "gmp")


@every_s
@pytest.mark.parametrize("bits", [256, 500, 1030])
def test_engines_agree_for_ordinary_keys(native_name: NativeName, bits: int, s: int) -> None:
    _, theirs = paillier.generate_paillier_keypair(n_length=bits)
    _agree(ordinary_key(theirs.p, theirs.q), native_name, s=s, count=8)


@every_s
def test_engines_agree_for_primes_of_very_different_lengths(
    native_name: NativeName, s: int
) -> None:
    for P, Q in ((2**521 - 1, 2**89 - 1), (2**61 - 1, 2**521 - 1)):
        _agree(ordinary_key(P, Q), native_name, s=s, count=4)


@settings(max_examples=50)
@given(data=st.data(), count=st.integers(0, 300), threads=st.integers(1, 4), s=st.integers(1, 3))
def test_sums_open_to_sums(
    native_name: NativeName,
    unsafe_key: PrivateKey,
    data: st.DataObject,
    count: int,
    threads: int,
    s: int,
) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, name=native_name, threads=threads, s=s)
    seed = data.draw(st.randoms(use_true_random=False))
    below, width = engine.plaintext_modulus, engine.plaintext_bytes
    left, right = ([seed.randrange(below) for _ in range(count)] for _ in "ab")
    total = engine.add(engine.encrypt(_vector(left, width)), engine.encrypt(_vector(right, width)))
    engine.check(total)
    expected = [(a + b) % below for a, b in zip(left, right, strict=True)]
    assert engine.decrypt(total) == _vector(expected, width)


@every_s
def test_what_was_sealed_elsewhere_is_opened_wherever_it_stands(
    native_name: NativeName, unsafe_key: PrivateKey, s: int
) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, name=native_name, s=s)
    width, size = engine.plaintext_bytes, engine.ciphertext_bytes
    ours = engine.encrypt(_vector(list(range(9)), width))
    most = engine.plaintext_modulus - 1
    theirs = _foreign(engine, [most, 101])
    mixed = ours[: 3 * size] + theirs[:size] + ours[4 * size :] + theirs[size:]
    expected = _vector([0, 1, 2, most, 4, 5, 6, 7, 8, 101], width)
    assert engine.decrypt(mixed) == expected
    sums = engine.add(theirs, ours[size : 3 * size])
    assert engine.decrypt(sums) == _vector([0, 103], width)


def test_what_phe_sealed_is_opened(native_name: NativeName, unsafe_key: PrivateKey) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, name=native_name)
    number = paillier.PaillierPublicKey(unsafe_key.public.N).raw_encrypt(77)
    theirs = _vector([number], engine.ciphertext_bytes)
    assert engine.decrypt(theirs) == _vector([77], engine.plaintext_bytes)


@every_s
def test_numbers_beyond_the_modulus_give_what_gmp_gives(
    native_name: NativeName, unsafe_key: PrivateKey, s: int
) -> None:
    native, gmp = (
        create_engine(unsafe_key.public, unsafe_key, name=name, s=s)
        for name in (native_name, "gmp")
    )
    most, modulus = 256**gmp.ciphertext_bytes - 1, gmp.ciphertext_modulus
    vector = _vector([most, modulus, modulus + 1], gmp.ciphertext_bytes)
    plaintexts = _vector([1, 2, 3], gmp.plaintext_bytes)
    assert native.add(vector, vector) == gmp.add(vector, vector)
    assert native.blind(plaintexts, vector) == gmp.blind(plaintexts, vector)


@every_s
@pytest.mark.parametrize("kind", ["zero", "N", "the modulus", "a factor"])
def test_numbers_that_are_no_ciphertexts_are_found(
    native_name: NativeName, unsafe_key: PrivateKey, kind: str, s: int
) -> None:
    engine, N = create_engine(unsafe_key.public, name=native_name, s=s), unsafe_key.public.N
    bad = {"zero": 0, "N": N, "the modulus": N ** (s + 1), "a factor": unsafe_key.P}[kind]
    vector = _vector([1] * 20 + [bad] + [1] * 7, engine.ciphertext_bytes)
    with pytest.raises(MalformedMessageError, match="ciphertext 20"):
        engine.check(vector)


@every_s
def test_wrong_lengths_plaintexts_and_keys_are_refused(
    native_name: NativeName, unsafe_key: PrivateKey, s: int
) -> None:
    engine = create_engine(unsafe_key.public, name=native_name, s=s)
    with pytest.raises(MalformedMessageError, match="no whole numbers"):
        engine.encrypt(b"\0" * (engine.plaintext_bytes + 1))
    with pytest.raises(MalformedMessageError, match="no whole numbers"):
        engine.check(b"\0" * (engine.ciphertext_bytes + 1))
    with pytest.raises(MalformedMessageError, match=rf"plaintext 1 is not below N\^{s}"):
        engine.encrypt(_vector([1, engine.plaintext_modulus], engine.plaintext_bytes))
    with pytest.raises(MalformedMessageError, match="different lengths"):
        engine.add(b"", b"\0" * engine.ciphertext_bytes)
    with pytest.raises(InvalidKeyError, match="only a holder"):
        engine.decrypt(b"")


@needs_kernel
def test_auto_is_native_where_it_can_run(unsafe_key: PrivateKey) -> None:
    assert isinstance(create_engine(unsafe_key.public), NativeEngine)
    assert choose_engine().name == "native"
    assert choose_engine("gmp").reason == "It was asked for."


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        (IFMA, "This processor has AVX-512 IFMA."),
        (AVX2, "This processor has AVX2, but no AVX-512 IFMA."),
    ],
)
def test_auto_says_which_instruction_set_it_found(
    monkeypatch: pytest.MonkeyPatch, instructions: InstructionSet, reason: str
) -> None:
    monkeypatch.setattr(engines, "find_obstacle", lambda: "")
    monkeypatch.setattr(engines, "find_instructions", lambda: instructions)
    assert choose_engine() == EngineChoice("native", reason)


def test_avx2_can_be_asked_for_where_there_is_better(unsafe_key: PrivateKey) -> None:
    obstacle = find_obstacle(AVX2)
    if obstacle:
        pytest.skip(obstacle)
    engine = create_engine(unsafe_key.public, name="native-avx2")
    assert isinstance(engine, Avx2Engine)
    assert engine.instructions == AVX2


def test_auto_is_gmp_where_native_cannot_run(
    unsafe_key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_obstacle", lambda: "this processor is old")
    assert choose_engine().name == "gmp"
    assert choose_engine().reason == "Engine native cannot run: this processor is old."
    assert type(create_engine(unsafe_key.public)) is GmpEngine


@pytest.mark.parametrize("name", ["native", "native-avx2"])
def test_native_is_refused_where_it_cannot_run(
    unsafe_key: PrivateKey, monkeypatch: pytest.MonkeyPatch, name: NativeName
) -> None:
    def broken() -> None:
        raise SettingsError("this processor is old")

    monkeypatch.setattr("ppfl.crypto.lanes._load", broken)
    with pytest.raises(SettingsError, match="this processor is old"):
        create_engine(unsafe_key.public, name=name)


def test_c_code_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_INTERFACE", -1)
    lanes._load.cache_clear()
    try:
        choice = choose_engine()
    finally:
        lanes._load.cache_clear()
    assert choice.name == "gmp"
    assert "that of another version" in choice.reason


@needs_kernel
@pytest.mark.slow
def test_the_kernel_runs_clean_under_sanitizers() -> None:
    script = Path(__file__).with_name("sanitize.sh")
    done = subprocess.run(
        ["bash", str(script)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stdout + done.stderr
