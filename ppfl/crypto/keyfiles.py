"""Key files: versioned text, private ones sealed with a passphrase.

The format is specified in docs/formats.md. A private key file is created readable by its owner
only, and no key file is ever overwritten: a lost key makes every ciphertext under it unreadable.
"""

from __future__ import annotations

import json
import os
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.errors import InvalidKeyError, KeyFileError, WrongPassphraseError

_PUBLIC_MAGIC = "ppfl public key, version 1"
_PRIVATE_MAGIC = "ppfl private key, version 1"
_SCRYPT_LOG_N = 17  # 128 MiB and about half a second for each guess
_LARGEST_FILE = 64 * 1024
_LINE = 76


def write_public_key(path: Path, key: PublicKey) -> None:
    """Write a public key file.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    _create(
        path,
        _PUBLIC_MAGIC,
        {
            "fingerprint": key.fingerprint,
            "bits": str(key.bits),
            "randomizer-bits": str(key.randomizer_bits),
            "n": f"{key.N:x}",
            "h": f"{key.h:x}",
        },
        mode=0o644,
    )


def read_public_key(path: Path, *, unsafe_bits: bool = False) -> PublicKey:
    """The public key in a file, validated.

    Raises:
        KeyFileError: the file is missing, no public key file, or its fingerprint is not that of
            its numbers.
        InvalidKeyError: the numbers are no acceptable key.
    """
    fields = _read(path, _PUBLIC_MAGIC, ("fingerprint", "bits", "randomizer-bits", "n", "h"))
    try:
        key = PublicKey(
            N=int(fields["n"], 16),
            h=int(fields["h"], 16),
            randomizer_bits=int(fields["randomizer-bits"]),
        )
    except ValueError:
        raise KeyFileError(f"{path}: a number in it is damaged") from None
    if key.fingerprint != fields["fingerprint"] or str(key.bits) != fields["bits"]:
        raise KeyFileError(f"{path}: its fingerprint is not that of its numbers")
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
    numbers = {"h": public.h, "P": key.P, "Q": key.Q, "p": key.p, "q": key.q}
    text = json.dumps(
        {name: f"{number:x}" for name, number in numbers.items()}
        | {"randomizer-bits": public.randomizer_bits}
    )
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    cipher = AESGCM(_stretch(passphrase, salt=salt, log_n=_SCRYPT_LOG_N))
    sealed = cipher.encrypt(nonce, text.encode(), _bound_to(public.fingerprint))
    _create(
        path,
        _PRIVATE_MAGIC,
        {
            "fingerprint": public.fingerprint,
            "kdf": f"scrypt {_SCRYPT_LOG_N} {salt.hex()}",
            "cipher": f"aes-256-gcm {nonce.hex()}",
            "sealed": b64encode(sealed).decode(),
        },
        mode=0o600,
    )


def read_private_key(path: Path, *, passphrase: str, unsafe_bits: bool = False) -> PrivateKey:
    """The private key in a file, validated.

    Raises:
        KeyFileError: the file is missing, is open to others than its owner, or is no private key
            file.
        WrongPassphraseError: this passphrase does not open it, or the file was changed.
        InvalidKeyError: the numbers are no acceptable key.
    """
    fields = _read(path, _PRIVATE_MAGIC, ("fingerprint", "kdf", "cipher", "sealed"))
    if path.stat().st_mode & 0o077:
        raise KeyFileError(
            f"{path}: others than its owner can read this private key", hint=f"chmod 600 {path}"
        )
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
    key = _parse_private(opened)
    if key.public.fingerprint != fields["fingerprint"]:
        raise KeyFileError(f"{path}: its fingerprint is not that of its numbers")
    key.validate(unsafe_bits=unsafe_bits)
    return key


def _parse_private(text: bytes) -> PrivateKey:
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
    return f"{_PRIVATE_MAGIC}\n{fingerprint}".encode()


def _create(path: Path, magic: str, fields: dict[str, str], *, mode: int) -> None:
    lines = [magic]
    for name, value in fields.items():
        first, rest = value[: _LINE - len(name)], value[_LINE - len(name) :]
        lines.append(f"{name}: {first}")
        lines += [f"  {rest[start : start + _LINE]}" for start in range(0, len(rest), _LINE)]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: a file of this name exists, and no key is ever overwritten",
            hint="choose another name, or move the old key away yourself",
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be created: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, magic: str, names: tuple[str, ...]) -> dict[str, str]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise KeyFileError(f"{path}: too large for a key file")
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such key file") from None
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(f"{path}: not a readable text file") from None
    if not lines or lines[0] != magic:
        raise KeyFileError(f"{path}: does not begin with “{magic}”")
    fields: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line.startswith("  ") and name:
            fields[name] += line.strip()
        else:
            name, _, value = line.partition(": ")
            fields[name] = value
    if tuple(fields) != names:
        raise KeyFileError(f"{path}: must hold exactly the lines {', '.join(names)}")
    return fields
