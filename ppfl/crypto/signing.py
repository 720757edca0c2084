"""Signatures under what goes into a journal: who said it, and that nobody changed it since.

The coordinator signs with Ed25519 [RFC 8032]; a site with Ed25519, or with ECDSA on P-384 and
SHA-384 where that is the key by which Flower knows it. A statement begins with a line that says
what it is, so that no signature made for one purpose serves another: Flower has its keys sign
times and ids. Keys are in OpenSSH's formats.

[RFC 8032] S. Josefsson, I. Liusvaara, "Edwards-Curve Digital Signature Algorithm (EdDSA)", 2017.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from ppfl.crypto.textfile import read_key_text, require_private, write_key_text
from ppfl.errors import KeyFileError, RecordError

_ECDSA = ec.ECDSA(hashes.SHA384())


class Signer:
    """Signs statements; ``public`` is the line of OpenSSH by which others check them."""

    def __init__(self, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self.public = line.decode("ascii")

    def sign(self, statement: bytes) -> str:
        """The signature under a statement, hexadecimal."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(statement).hex()
        return self._key.sign(statement, _ECDSA).hex()


def create_signing_key(path: Path) -> Signer:
    """A new Ed25519 key, after it was written to a file that only its owner can read.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    write_key_text(path, text, mode=0o600)
    return Signer(key)


def read_signing_key(path: Path) -> Signer:
    """The key in a file.

    Raises:
        KeyFileError: it is missing, damaged or of another kind.
        KeyAccessError: others can read it, or it is another user's.
    """
    require_private(path)
    try:
        key = load_ssh_private_key(read_key_text(path).encode("ascii"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: holds no private key that signs, or is damaged")
    return Signer(key)


def check_signature(statement: bytes, signature: str, *, public: str) -> None:
    """Check a signature, in hexadecimal, under a statement.

    Raises:
        RecordError: it was not made with the private half of ``public``, or not under this.
    """
    try:
        key, signed = load_ssh_public_key(public.encode()), bytes.fromhex(signature)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signed, statement)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed, statement, _ECDSA)
        else:
            raise RecordError("a key that does not sign journals")
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise RecordError("the signature does not fit") from None


def key_fingerprint(public: str) -> str:
    """What `ssh-keygen -lf` prints of a public key: SHA-256 in base64."""
    try:
        blob = b64decode(public.split()[1], validate=True)
    except (IndexError, ValueError):
        return "no key"
    return "SHA256:" + b64encode(sha256(blob).digest()).decode("ascii").rstrip("=")
