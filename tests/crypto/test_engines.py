from __future__ import annotations

import secrets
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phe import paillier

from ppfl.crypto import Engine, EngineName, PrivateKey, create_engine
from ppfl.crypto.keys import ordinary_key
from ppfl.errors import InvalidKeyError, MalformedMessageError, SettingsError
from tests.crypto.numbers import foreign as _foreign
from tests.crypto.numbers import vector as _vector

every_s = pytest.mark.parametrize("s", [1, 2, 3])


def _edges(engine: Engine) -> list[int]:
    N, modulus = engine.public.N, engine.plaintext_modulus
    return [0, 1, 2, N - 1, N % modulus, (N + 1) % modulus, modulus // 2, modulus - 1]


@every_s
def test_engines_agree_bit_for_bit(full_key: PrivateKey, s: int) -> None:
    public = full_key.public
    gmp, reference = (
        create_engine(public, full_key, name="gmp", s=s),
        create_engine(public, full_key, name="reference", s=s),
    )
    stranger = create_engine(public, name="gmp", s=s)
    exponents = [0, 1, 2**public.randomizer_bits - 1, secrets.randbits(public.randomizer_bits)]
    rhos = gmp.randomizers(exponents)
    assert rhos == reference.randomizers(exponents) == stranger.randomizers(exponents)
    most = gmp.plaintext_modulus - 1
    plaintexts = _vector([0, 1, most, secrets.randbelow(most)], gmp.plaintext_bytes)
    ciphertexts = gmp.blind(plaintexts, rhos)
    assert ciphertexts == reference.blind(plaintexts, rhos)
    assert gmp.add(ciphertexts, rhos) == reference.add(ciphertexts, rhos)
    assert gmp.decrypt(ciphertexts) == reference.decrypt(ciphertexts) == plaintexts


@every_s
@pytest.mark.parametrize("name", ["gmp", "reference"])
def test_ciphertexts_are_those_of_the_paper(
    unsafe_key: PrivateKey, name: EngineName, s: int
) -> None:
    N, h = unsafe_key.public.N, unsafe_key.public.h
    engine = create_engine(unsafe_key.public, unsafe_key, name=name, s=s)
    modulus, numbers = N ** (s + 1), _edges(engine)
    exponents = [secrets.randbits(unsafe_key.public.randomizer_bits) for _ in numbers]
    rhos = [pow(h, r * N**s, modulus) for r in exponents]
    expected = [
        sum(comb(m, k) * N**k for k in range(s + 1)) * rho % modulus
        for m, rho in zip(numbers, rhos, strict=True)
    ]
    width = engine.ciphertext_bytes
    assert engine.randomizers(exponents) == _vector(rhos, width)
    plaintexts = _vector(numbers, engine.plaintext_bytes)
    assert engine.blind(plaintexts, _vector(rhos, width)) == _vector(expected, width)
    assert engine.decrypt(_vector(expected, width)) == plaintexts


@every_s
def test_a_ciphertext_has_s_plus_1_times_the_keys_bits(full_key: PrivateKey, s: int) -> None:
    engine = create_engine(full_key.public, name="gmp", s=s)
    assert engine.ciphertext_bytes == (s + 1) * 384
    assert engine.plaintext_bytes == s * 384
    assert 2**engine.plaintext_bits <= engine.plaintext_modulus < 2 ** (engine.plaintext_bits + 1)


def test_phe_opens_ours_and_we_open_what_phe_sealed(full_key: PrivateKey) -> None:
    public = full_key.public
    phe_public = paillier.PaillierPublicKey(public.N)
    phe_private = paillier.PaillierPrivateKey(phe_public, full_key.P, full_key.Q)
    engine = create_engine(public, full_key)
    ours = engine.encrypt(_vector([12345], engine.plaintext_bytes))
    assert phe_private.raw_decrypt(int.from_bytes(ours, "little")) == 12345
    theirs = phe_public.raw_encrypt(54321).to_bytes(engine.ciphertext_bytes, "little")
    assert int.from_bytes(engine.decrypt(theirs), "little") == 54321


@every_s
def test_an_ordinary_key_of_phe_works_with_full_exponents(s: int) -> None:
    _, theirs = paillier.generate_paillier_keypair(n_length=512)
    key = ordinary_key(theirs.p, theirs.q)
    key.validate(unsafe_bits=True)
    engine = create_engine(key.public, key, s=s)
    plaintexts = _vector([7, 8], engine.plaintext_bytes)
    assert engine.decrypt(engine.encrypt(plaintexts)) == plaintexts


@every_s
def test_ciphertexts_made_elsewhere_are_opened_wherever_they_stand(
    unsafe_key: PrivateKey, s: int
) -> None:
    for name in ("gmp", "reference"):
        engine = create_engine(unsafe_key.public, unsafe_key, name=name, s=s)
        edges, width = _edges(engine), engine.plaintext_bytes
        mixed = engine.encrypt(_vector(edges, width)) + _foreign(engine, edges)
        mixed += engine.encrypt(_vector([5], width))
        assert engine.decrypt(mixed) == _vector([*edges, *edges, 5], width)


@every_s
def test_two_encryptions_of_one_value_differ(unsafe_key: PrivateKey, s: int) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, s=s)
    plaintext = _vector([5], engine.plaintext_bytes)
    assert engine.encrypt(plaintext) != engine.encrypt(plaintext)


@settings(max_examples=60)
@given(data=st.data(), s=st.integers(1, 3), threads=st.integers(1, 3))
def test_sums_open_to_sums(
    unsafe_key: PrivateKey, data: st.DataObject, s: int, threads: int
) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key, name="gmp", threads=threads, s=s)
    modulus, width = engine.plaintext_modulus, engine.plaintext_bytes
    plaintext = st.one_of(st.integers(0, modulus - 1), st.sampled_from(_edges(engine)))
    pairs = data.draw(st.lists(st.tuples(plaintext, plaintext), max_size=6))
    left = engine.encrypt(_vector([a for a, _ in pairs], width))
    right = engine.encrypt(_vector([b for _, b in pairs], width))
    total = engine.add(left, right)
    engine.check(total)
    assert engine.decrypt(total) == _vector([(a + b) % modulus for a, b in pairs], width)


@every_s
@pytest.mark.parametrize("kind", ["zero", "N", "the modulus", "a factor"])
def test_numbers_that_are_no_ciphertexts_are_found(
    unsafe_key: PrivateKey, kind: str, s: int
) -> None:
    engine, N = create_engine(unsafe_key.public, s=s), unsafe_key.public.N
    bad = {"zero": 0, "N": N, "the modulus": N ** (s + 1), "a factor": unsafe_key.P}[kind]
    vector = _vector([1, bad], engine.ciphertext_bytes)
    with pytest.raises(MalformedMessageError, match="ciphertext 1"):
        engine.check(vector)


@every_s
def test_wrong_lengths_plaintexts_and_keys_are_refused(unsafe_key: PrivateKey, s: int) -> None:
    public = unsafe_key.public
    engine = create_engine(public, s=s)
    with pytest.raises(MalformedMessageError, match="no whole numbers"):
        engine.encrypt(b"\0" * (engine.plaintext_bytes + 1))
    with pytest.raises(MalformedMessageError, match=rf"plaintext 0 is not below N\^{s}"):
        engine.encrypt(_vector([engine.plaintext_modulus], engine.plaintext_bytes))
    with pytest.raises(MalformedMessageError, match="different lengths"):
        engine.add(b"", b"\0" * engine.ciphertext_bytes)
    with pytest.raises(InvalidKeyError, match="only a holder"):
        engine.decrypt(b"")
    with pytest.raises(InvalidKeyError, match="does not belong"):
        create_engine(replace(public, h=public.h + 1), unsafe_key, s=s)


@pytest.mark.parametrize("s", [-1, 0, 4])
def test_other_values_of_s_are_refused(unsafe_key: PrivateKey, s: int) -> None:
    with pytest.raises(SettingsError, match=f"s is {s}, but must be from 1 to 3"):
        create_engine(unsafe_key.public, s=s, name="gmp")
