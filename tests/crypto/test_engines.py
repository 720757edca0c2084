from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from phe import paillier

from ppfl.crypto import PrivateKey, create_engine
from ppfl.crypto.keys import ordinary_key
from ppfl.errors import InvalidKeyError, MalformedMessageError


def _vector(numbers: list[int], width: int) -> bytes:
    return b"".join(number.to_bytes(width, "little") for number in numbers)


def test_engines_agree_bit_for_bit(full_key: PrivateKey) -> None:
    public = full_key.public
    gmp, reference = (
        create_engine(public, full_key, name="gmp"),
        create_engine(public, full_key, name="reference"),
    )
    stranger = create_engine(public, name="gmp")
    exponents = [0, 1, 2**public.randomizer_bits - 1, secrets.randbits(public.randomizer_bits)]
    rhos = gmp.randomizers(exponents)
    assert rhos == reference.randomizers(exponents) == stranger.randomizers(exponents)
    plaintexts = _vector([0, 1, public.N - 1, secrets.randbelow(public.N)], public.plaintext_bytes)
    ciphertexts = gmp.blind(plaintexts, rhos)
    assert ciphertexts == reference.blind(plaintexts, rhos)
    assert gmp.add(ciphertexts, rhos) == reference.add(ciphertexts, rhos)
    assert gmp.decrypt(ciphertexts) == reference.decrypt(ciphertexts) == plaintexts


def test_phe_opens_ours_and_we_open_what_phe_sealed(full_key: PrivateKey) -> None:
    public = full_key.public
    phe_public = paillier.PaillierPublicKey(public.N)
    phe_private = paillier.PaillierPrivateKey(phe_public, full_key.P, full_key.Q)
    engine = create_engine(public, full_key)
    ours = engine.encrypt(_vector([12345], public.plaintext_bytes))
    assert phe_private.raw_decrypt(int.from_bytes(ours, "little")) == 12345
    theirs = phe_public.raw_encrypt(54321).to_bytes(public.ciphertext_bytes, "little")
    assert int.from_bytes(engine.decrypt(theirs), "little") == 54321


def test_an_ordinary_key_of_phe_works_with_full_exponents() -> None:
    _, theirs = paillier.generate_paillier_keypair(n_length=512)
    key = ordinary_key(theirs.p, theirs.q)
    key.validate(unsafe_bits=True)
    engine = create_engine(key.public, key)
    plaintexts = _vector([7, 8], key.public.plaintext_bytes)
    assert engine.decrypt(engine.encrypt(plaintexts)) == plaintexts


def test_two_encryptions_of_one_value_differ(unsafe_key: PrivateKey) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key)
    plaintext = _vector([5], unsafe_key.public.plaintext_bytes)
    assert engine.encrypt(plaintext) != engine.encrypt(plaintext)


def test_sums_open_to_sums(unsafe_key: PrivateKey) -> None:
    public = unsafe_key.public
    engine = create_engine(public, unsafe_key, threads=3)
    numbers = [secrets.randbelow(public.N // 2) for _ in range(10)]
    left = engine.encrypt(_vector(numbers, public.plaintext_bytes))
    right = engine.encrypt(_vector(numbers[::-1], public.plaintext_bytes))
    expected = [a + b for a, b in zip(numbers, numbers[::-1], strict=True)]
    assert engine.decrypt(engine.add(left, right)) == _vector(expected, public.plaintext_bytes)


@pytest.mark.parametrize("kind", ["zero", "N", "N squared", "a factor"])
def test_numbers_that_are_no_ciphertexts_are_found(unsafe_key: PrivateKey, kind: str) -> None:
    public = unsafe_key.public
    bad = {"zero": 0, "N": public.N, "N squared": public.N2, "a factor": unsafe_key.P}[kind]
    vector = _vector([1, bad], public.ciphertext_bytes)
    with pytest.raises(MalformedMessageError, match="ciphertext 1"):
        create_engine(public).check(vector)


def test_wrong_lengths_plaintexts_and_keys_are_refused(unsafe_key: PrivateKey) -> None:
    public = unsafe_key.public
    engine = create_engine(public)
    with pytest.raises(MalformedMessageError, match="no whole numbers"):
        engine.encrypt(b"\0" * (public.plaintext_bytes + 1))
    with pytest.raises(MalformedMessageError, match="plaintext 0 is not below N"):
        engine.encrypt(_vector([public.N], public.plaintext_bytes))
    with pytest.raises(MalformedMessageError, match="different lengths"):
        engine.add(b"", b"\0" * public.ciphertext_bytes)
    with pytest.raises(InvalidKeyError, match="only a holder"):
        engine.decrypt(b"")
    with pytest.raises(InvalidKeyError, match="does not belong"):
        create_engine(replace(public, h=public.h + 1), unsafe_key)
