from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ppfl.crypto import (
    PrivateKey,
    generate_key,
    generate_unsafe_key,
    keyfiles,
    read_private_key,
    read_public_key,
    write_private_key,
    write_public_key,
)
from ppfl.errors import InvalidKeyError, KeyFileError, WrongPassphraseError

_LOG_N = keyfiles._SCRYPT_LOG_N  # before tests/conftest.py makes it small


def test_a_full_key_is_what_the_paper_says(full_key: PrivateKey) -> None:
    full_key.validate()
    assert full_key.public.bits == 3072
    assert full_key.p.bit_length() == full_key.q.bit_length() == 256
    assert str(full_key.P) not in repr(full_key)
    assert str(full_key.p) not in repr(full_key)


def test_odd_sizes_are_not_offered() -> None:
    with pytest.raises(InvalidKeyError, match="1024"):
        generate_key(1024)
    with pytest.raises(InvalidKeyError, match="128 are the least"):
        generate_unsafe_key(64)


def test_damaged_keys_are_found(unsafe_key: PrivateKey) -> None:
    with pytest.raises(InvalidKeyError, match="256 bits"):
        unsafe_key.public.validate()
    with pytest.raises(InvalidKeyError, match="small factor"):
        replace(unsafe_key.public, N=unsafe_key.public.N + 1).validate(unsafe_bits=True)
    with pytest.raises(InvalidKeyError, match="multiply to N"):
        replace(unsafe_key, P=unsafe_key.Q).validate(unsafe_bits=True)
    with pytest.raises(InvalidKeyError, match="does not divide"):
        replace(unsafe_key, p=unsafe_key.p + 2).validate(unsafe_bits=True)
    public = replace(unsafe_key.public, h=3)
    with pytest.raises(InvalidKeyError, match="not in the subgroup"):
        replace(unsafe_key, public=public).validate(unsafe_bits=True)


def test_a_guess_of_the_passphrase_costs_what_it_should(
    tmp_path: Path, full_key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfiles, "_SCRYPT_LOG_N", _LOG_N)
    path = tmp_path / "private.key"
    write_private_key(path, full_key, passphrase="correct")
    assert "\nkdf: scrypt 17 " in path.read_text()
    assert read_private_key(path, passphrase="correct") == full_key


def test_key_files_come_back_and_are_never_overwritten(
    tmp_path: Path, full_key: PrivateKey
) -> None:
    private, public = tmp_path / "private.key", tmp_path / "public.key"
    write_private_key(private, full_key, passphrase="correct")
    write_public_key(public, full_key.public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert read_private_key(private, passphrase="correct") == full_key
    assert read_public_key(public) == full_key.public
    with pytest.raises(WrongPassphraseError):
        read_private_key(private, passphrase="wrong")
    with pytest.raises(KeyFileError, match="overwritten"):
        write_public_key(public, full_key.public)
    private.chmod(0o644)
    with pytest.raises(KeyFileError, match="others than its owner"):
        read_private_key(private, passphrase="correct")


def test_key_files_that_are_none_are_refused(tmp_path: Path, full_key: PrivateKey) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match="no such key file"):
        read_public_key(path)
    with pytest.raises(KeyFileError, match="passphrase"):
        write_private_key(path, full_key, passphrase="")
    write_public_key(path, full_key.public)
    with pytest.raises(KeyFileError, match="does not begin"):
        read_private_key(path, passphrase="x")
    text = path.read_text()
    path.write_text(text.replace("fingerprint: ", "fingerprint: 0"))
    with pytest.raises(KeyFileError, match="fingerprint is not"):
        read_public_key(path)
    path.write_text(text.split("\n", 1)[0] + "\n")
    with pytest.raises(KeyFileError, match="exactly the lines"):
        read_public_key(path)
