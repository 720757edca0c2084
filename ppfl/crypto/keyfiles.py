"""Key files: versioned text, private ones sealed with a passphrase.

The format is specified in docs/formats.md. A private key file is created readable by its owner
only, and no key file is ever overwritten: a lost key makes every ciphertext under it unreadable.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.crypto.textfile import (
    format_fields,
    parse_fields,
    read_key_text,
    require_private,
    write_key_text,
)
from ppfl.errors import InvalidKeyError, KeyFileError, WrongPassphraseError

PUBLIC_MAGIC = "ppfl public key, version 1"
PRIVATE_MAGIC = "ppfl private key, version 1"
_SCRYPT_LOG_N = 17  # 128 MiB and about half a second for each guess


def write_public_key(path: Path, key: PublicKey) -> None:
    """Write a public key file.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    write_key_text(path, format_public_key(key), mode=0o644)


def format_public_key(key: PublicKey) -> str:
    """The text of a public key file."""
    return format_fields(
        PUBLIC_MAGIC,
        {
            "fingerprint": key.fingerprint,
            "bits": str(key.bits),
            "randomizer-bits": str(key.randomizer_bits),
            "n": f"{key.N:x}",
            "h": f"{key.h:x}",
        },
    )


def read_public_key(path: Path, *, unsafe_bits: bool = False) -> PublicKey:
    """The public key in a file, validated.

    Raises:
        KeyFileError: the file is missing, no public key file, or its fingerprint is not that of
            its numbers.
        InvalidKeyError: the numbers are no acceptable key.
    """
    return parse_public_key(read_key_text(path), where=str(path), unsafe_bits=unsafe_bits)


def parse_public_key(text: str, *, where: str, unsafe_bits: bool = False) -> PublicKey:
    """The public key in the text of such a file, validated; ``where`` begins error messages.

    Raises:
        KeyFileError: it is no public key file's text, or its fingerprint is not that of its
            numbers.
        InvalidKeyError: the numbers are no acceptable key.
    """
    names = ("fingerprint", "bits", "randomizer-bits", "n", "h")
    fields = parse_fields(text, PUBLIC_MAGIC, names, where=where)
    try:
        key = PublicKey(
            N=int(fields["n"], 16),
            h=int(fields["h"], 16),
            randomizer_bits=int(fields["randomizer-bits"]),
        )
    except ValueError:
        raise KeyFileError(f"{where}: a number in it is damaged") from None
    if key.fingerprint != fields["fingerprint"] or str(key.bits) != fields["bits"]:
        raise KeyFileError(f"{where}: its fingerprint is not that of its numbers")
    key.validate(unsafe_bits=unsafe_bits)
    return key


def write_private_key(path: Path, key: PrivateKey, *, passphrase: str) -> None:
    """Write a private key file, sealed with a passphrase, mode 0600.

    Raises:
        KeyFileError: the passphrase is empty, the file exists, or cannot be written.
    """
    if not passphrase:
        raise KeyFileError(f"{path}: a private key is not written without a passphrase")
    public = key.public
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    cipher = AESGCM(_stretch(passphrase, salt=salt, log_n=_SCRYPT_LOG_N))
    sealed = cipher.encrypt(nonce, encode_numbers(key), _bound_to(public.fingerprint))
    fields = {
        "fingerprint": public.fingerprint,
        "kdf": f"scrypt {_SCRYPT_LOG_N} {salt.hex()}",
        "cipher": f"aes-256-gcm {nonce.hex()}",
        "sealed": b64encode(sealed).decode(),
    }
    write_key_text(path, format_fields(PRIVATE_MAGIC, fields), mode=0o600)


def read_private_key(path: Path, *, passphrase: str, unsafe_bits: bool = False) -> PrivateKey:
    """The private key in a file, validated.

    Raises:
        KeyFileError: the file is missing, is open to others than its owner, or is no private key
            file.
        WrongPassphraseError: this passphrase does not open it, or the file was changed.
        InvalidKeyError: the numbers are no acceptable key.
    """
    fields = parse_private_fields(read_key_text(path), where=str(path))
    require_private(path)
    try:
        kdf, log_n_text, salt_text = fields["kdf"].split(" ")
        name, nonce_text = fields["cipher"].split(" ")
        log_n, salt, nonce = int(log_n_text), bytes.fromhex(salt_text), bytes.fromhex(nonce_text)
        sealed = b64decode(fields["sealed"], validate=True)
        if kdf != "scrypt" or name != "aes-256-gcm" or len(nonce) != 12 or not 1 <= log_n <= 20:
            raise ValueError
    except ValueError:
        raise KeyFileError(f"{path}: its kdf, cipher or sealed line is damaged") from None
    cipher = AESGCM(_stretch(passphrase, salt=salt, log_n=log_n))
    try:
        opened = cipher.decrypt(nonce, sealed, _bound_to(fields["fingerprint"]))
    except InvalidTag:
        raise WrongPassphraseError(
            f"{path}: the passphrase does not open this private key",
            hint="check the passphrase; if it is right, the file was changed",
        ) from None
    key = decode_numbers(opened)
    if key.public.fingerprint != fields["fingerprint"]:
        raise KeyFileError(f"{path}: its fingerprint is not that of its numbers")
    key.validate(unsafe_bits=unsafe_bits)
    return key


def parse_private_fields(text: str, *, where: str) -> dict[str, str]:
    """What anyone can see in the text of a private key file; ``where`` begins error messages.

    Raises:
        KeyFileError: it is no private key file's text.
    """
    names = ("fingerprint", "kdf", "cipher", "sealed")
    return parse_fields(text, PRIVATE_MAGIC, names, where=where)


def encode_numbers(key: PrivateKey) -> bytes:
    """What is sealed of a private key, whoever it is sealed for: JSON in ASCII."""
    numbers = {"h": key.public.h, "P": key.P, "Q": key.Q, "p": key.p, "q": key.q}
    text = json.dumps(
        {name: f"{number:x}" for name, number in numbers.items()}
        | {"randomizer-bits": key.public.randomizer_bits}
    )
    return text.encode()


def decode_numbers(text: bytes) -> PrivateKey:
    """The private key that ``encode_numbers`` wrote, not validated.

    Raises:
        InvalidKeyError: the text does not hold the numbers of a key.
    """
    try:
        table = json.loads(text)
        h, P, Q, p, q = (int(table[name], 16) for name in ("h", "P", "Q", "p", "q"))
        public = PublicKey(N=P * Q, h=h, randomizer_bits=int(table["randomizer-bits"]))
    except (ValueError, KeyError, TypeError):
        # whoever sealed this knew the passphrase: no part of it may show in a message
        raise InvalidKeyError("the opened private key does not hold the numbers of a key") from None
    return PrivateKey(public=public, P=P, Q=Q, p=p, q=q)


def _stretch(passphrase: str, *, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log_n, r=8, p=1).derive(passphrase.encode())


def _bound_to(fingerprint: str) -> bytes:
    return f"{PRIVATE_MAGIC}\n{fingerprint}".encode()
