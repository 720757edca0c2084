"""The federation's private key, sealed to one site's own public key.

HPKE in mode Base: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM [RFC 9180, §5.1.1 and §7;
algorithms 0x0020, 0x0001, 0x0002], as the package `cryptography` offers it. Each sealing draws a
key pair of its own, so two of them never look alike. HPKE's ``info`` binds it to the site's name,
to the fingerprint of its card and to the key's fingerprint. Mode Base does not tell who sealed:
that it is the key of the ceremony, the sites make sure by comparing its fingerprint by telephone.

[RFC 9180] R. Barnes, K. Bhargavan, B. Lipp, C. Wood, "Hybrid Public Key Encryption", 2022.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ppfl.crypto.keyfiles import decode_numbers, encode_numbers
from ppfl.crypto.keys import PrivateKey
from ppfl.crypto.textfile import (
    format_fields,
    parse_fields,
    read_key_text,
    require_private,
    write_key_text,
)
from ppfl.errors import KeyFileError, KeyMismatchError

SEALED_MAGIC = "ppfl sealed key, version 1"
_ALGORITHMS = "x25519-hkdf-sha256 hkdf-sha256 aes-256-gcm"
_FIELDS = ("site", "card", "fingerprint", "hpke", "sealed")


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A private key that one site can open, and what it is bound to.

    ``card`` is the fingerprint of the site's card, ``fingerprint`` that of the key; both are 64
    hexadecimal digits. ``sealed`` holds HPKE's encapsulated key and the ciphertext.
    """

    site: str
    card: str
    fingerprint: str
    sealed: bytes = field(repr=False)

    @classmethod
    def seal(cls, key: PrivateKey, recipient: X25519PublicKey, *, site: str, card: str) -> Self:
        """The key, sealed to a site.

        Raises:
            KeyMismatchError: the recipient's public key is one to which nothing can be sealed.
        """
        fingerprint = key.public.fingerprint
        info = _bound_to(site, card, fingerprint)
        try:
            sealed = _suite().encrypt(encode_numbers(key), recipient, info=info)
        except ValueError:  # a point of low order: anyone could open what is sealed to it
            raise KeyMismatchError(f"site {site}: nothing can be sealed to its key") from None
        return cls(site, card, fingerprint, sealed)

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """The sealed key in the text of such a file; ``where`` begins error messages.

        Raises:
            KeyFileError: the text is of another kind, or damaged.
        """
        fields = parse_fields(text, SEALED_MAGIC, _FIELDS, where=where)
        if fields["hpke"] != _ALGORITHMS:
            raise KeyFileError(f"{where}: hpke must be {_ALGORITHMS}")
        try:
            sealed = b64decode(fields["sealed"], validate=True)
        except ValueError:
            raise KeyFileError(f"{where}: its sealed line is damaged") from None
        return cls(fields["site"], fields["card"], fields["fingerprint"], sealed)

    def to_text(self) -> str:
        """The text of a sealed key file."""
        return format_fields(
            SEALED_MAGIC,
            {
                "site": self.site,
                "card": self.card,
                "fingerprint": self.fingerprint,
                "hpke": _ALGORITHMS,
                "sealed": b64encode(self.sealed).decode(),
            },
        )

    def open(self, opener: X25519PrivateKey, *, unsafe_bits: bool = False) -> PrivateKey:
        """The private key, validated.

        Raises:
            KeyMismatchError: it was sealed to another key, or to another site or card than it
                says, or it was changed.
            InvalidKeyError: what was sealed is no acceptable key.
        """
        info = _bound_to(self.site, self.card, self.fingerprint)
        try:
            opened = _suite().decrypt(self.sealed, opener, info=info)
        except (InvalidTag, ValueError):
            raise KeyMismatchError(
                f"site {self.site}: its key does not open the sealed private key",
                hint="it was sealed to another card, or changed on its way: ask for it anew",
            ) from None
        key = decode_numbers(opened)
        if key.public.fingerprint != self.fingerprint:
            raise KeyMismatchError(
                f"site {self.site}: another key was sealed than {self.fingerprint[:16]}…"
            )
        key.validate(unsafe_bits=unsafe_bits)
        return key


def write_sealing_key(path: Path, key: X25519PrivateKey) -> None:
    """Write a site's own private key, PKCS #8 in PEM, mode 0600.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    write_key_text(path, text, mode=0o600)


def read_sealing_key(path: Path) -> X25519PrivateKey:
    """A site's own private key.

    Raises:
        KeyFileError: the file is missing or damaged, others can read it, or it is another user's.
    """
    require_private(path)
    try:
        key = load_pem_private_key(read_key_text(path).encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, X25519PrivateKey):
        raise KeyFileError(f"{path}: holds no X25519 private key, or is damaged")
    return key


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _bound_to(site: str, card: str, fingerprint: str) -> bytes:
    return f"{SEALED_MAGIC}\n{site}\n{card}\n{fingerprint}".encode()
