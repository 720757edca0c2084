from __future__ import annotations

import hmac
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppfl.crypto import PrivateKey
from ppfl.crypto.keyfiles import decode_numbers
from ppfl.crypto.sealing import SealedKey, read_sealing_key, write_sealing_key
from ppfl.errors import KeyFileError, KeyMismatchError

_CARD = "ab" * 32


def _seal(key: PrivateKey, opener: X25519PrivateKey) -> SealedKey:
    return SealedKey.seal(key, opener.public_key(), site="alpha", card=_CARD)


def test_a_sealed_key_comes_back_through_its_file(unsafe_key: PrivateKey) -> None:
    opener = X25519PrivateKey.generate()
    sealed = _seal(unsafe_key, opener)
    text = sealed.to_text()
    assert SealedKey.parse(text, where="x") == sealed
    assert sealed.open(opener, unsafe_bits=True) == unsafe_key
    assert _seal(unsafe_key, opener).sealed != sealed.sealed


def test_it_is_hpke_as_the_rfc_has_it(unsafe_key: PrivateKey) -> None:
    """RFC 9180, §4.1, §5.1 and §7, written out with nothing but HMAC, X25519 and AES-GCM."""

    def extract(suite: bytes, salt: bytes, label: bytes, text: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + text, sha256)

    def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
        text = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01"
        return hmac.digest(secret, text, sha256)[:length]

    opener = X25519PrivateKey.generate()
    sealed = _seal(unsafe_key, opener)
    encapsulated, ciphertext = sealed.sealed[:32], sealed.sealed[32:]
    kem = b"KEM\x00\x20"
    shared = opener.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    context = encapsulated + opener.public_key().public_bytes_raw()
    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    suite = b"HPKE\x00\x20\x00\x01\x00\x02"
    info = f"ppfl sealed key, version 1\nalpha\n{_CARD}\n{unsafe_key.public.fingerprint}".encode()
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"")
    context += extract(suite, b"", b"info_hash", info)
    secret = extract(suite, secret, b"secret", b"")
    nonce = expand(suite, secret, b"base_nonce", context, 12)
    opened = AESGCM(expand(suite, secret, b"key", context, 32)).decrypt(nonce, ciphertext, b"")
    assert decode_numbers(opened) == unsafe_key


@pytest.mark.parametrize("changed", ["site", "card", "fingerprint", "sealed", "opener"])
def test_it_opens_only_as_what_it_was_sealed_as(unsafe_key: PrivateKey, changed: str) -> None:
    opener = X25519PrivateKey.generate()
    sealed = _seal(unsafe_key, opener)
    if changed == "opener":
        opener = X25519PrivateKey.generate()
    elif changed == "sealed":
        sealed = replace(sealed, sealed=sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1]))
    else:
        sealed = replace(sealed, **{changed: "cd" * 32})
    with pytest.raises(KeyMismatchError, match="does not open"):
        sealed.open(opener, unsafe_bits=True)


def test_nothing_is_sealed_to_a_point_of_low_order(unsafe_key: PrivateKey) -> None:
    nobody = X25519PublicKey.from_public_bytes(bytes(32))
    with pytest.raises(KeyMismatchError, match="nothing can be sealed"):
        SealedKey.seal(unsafe_key, nobody, site="alpha", card=_CARD)


def test_another_key_under_the_fingerprint_is_found(unsafe_key: PrivateKey) -> None:
    opener = X25519PrivateKey.generate()
    posed = replace(unsafe_key, public=replace(unsafe_key.public, h=unsafe_key.public.h + 1))
    posed.public.__dict__["fingerprint"] = unsafe_key.public.fingerprint  # a sealer that lies
    sealed = _seal(posed, opener)
    with pytest.raises(KeyMismatchError, match="another key was sealed"):
        sealed.open(opener, unsafe_bits=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ppfl sealed key", "ppfl private key", "does not begin"),
        ("aes-256-gcm", "rot13", "hpke must be"),
        ("sealed: ", "sealed: *", "sealed line is damaged"),
        ("card: ", "cart: ", "exactly the lines"),
    ],
)
def test_damaged_files_are_named(unsafe_key: PrivateKey, old: str, new: str, message: str) -> None:
    text = _seal(unsafe_key, X25519PrivateKey.generate()).to_text()
    with pytest.raises(KeyFileError, match=message):
        SealedKey.parse(text.replace(old, new), where="alpha.sealed")


def test_a_sealing_key_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, key = tmp_path / "sealing.key", X25519PrivateKey.generate()
    write_sealing_key(path, key)
    assert read_sealing_key(path).private_bytes_raw() == key.private_bytes_raw()
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others than its owner"):
        read_sealing_key(path)
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(KeyFileError, match="runs as user 54321"):
        read_sealing_key(path)
    monkeypatch.undo()
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(KeyFileError, match="damaged"):
        read_sealing_key(path)
    with pytest.raises(KeyFileError, match="no such key file"):
        read_sealing_key(tmp_path / "none")
