"""A hospital's X-rays as cipher images, where the study asks for them (ppfl/xray/cipher_images)."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.crypto import Engine, create_engine, read_private_key
from ppfl.errors import DataError, SettingsError
from ppfl.learning.images import ImageSet, read_arrays, write_arrays
from ppfl.settings import SiteFile, Study
from ppfl.xray.cipher_images import CodeBook, encrypt_pixels

_SECRET_BYTES = 32


def to_cipher_images(data: ImageSet, site: SiteFile, study: Study) -> ImageSet:
    """The images as the study's network sees them: (n, size, size, 3), or unchanged X-rays.

    Ciphertexts with fresh randomness are made once and kept in the site's cache.

    Raises:
        SettingsError: the site has no key.
        KeyMaterialError: the key cannot be read.
        DataError: the site's folder cannot be written.
    """
    kind = study.images.cipher
    if kind == "none":
        return data
    if kind == "fresh_randomness":
        return replace(data, images=_fresh(data.images, site))
    book = code_book(site, kind, study.images.cipher_secret)
    if kind == "unsafe_low_byte":
        convert = book.low_byte
    elif study.images.cipher_bytes == "highest":
        convert = book.highest_bytes
    else:
        convert = book.correlated_bytes
    return replace(data, images=convert(data.images))


@lru_cache(maxsize=16)  # a simulation runs several sites in one process
def code_book(site: SiteFile, kind: str, whose: str) -> CodeBook:
    """A site's code book, for the study's ``images.cipher`` and ``images.cipher_secret``."""
    engine, from_key = _engine(site)
    if kind == "unsafe_no_randomness":
        return CodeBook.without_randomness(engine)
    secret = from_key if whose == "federation" else _own_secret(site.work / "cipher.secret")
    return CodeBook.with_fixed_randomness(engine, secret)


def _fresh(images: NDArray[np.uint8], site: SiteFile) -> NDArray[np.uint8]:
    engine, secret = _engine(site)
    # a plain digest would let anyone who sees the name check a guess of the pixels
    digest = hmac.new(secret, f"{images.shape}\n".encode() + images.tobytes(), hashlib.sha256)
    kept = site.work / "cache" / f"cipher-{digest.hexdigest()}.npy"
    if found := read_arrays(kept, (*images.shape, 3)):
        return found[0]
    made = encrypt_pixels(images, engine)
    write_arrays(kept, made)
    return made


def _engine(site: SiteFile) -> tuple[Engine, bytes]:
    """What encrypts a site's pixels, and a secret that all holders of its key can derive."""
    if site.key is None:
        raise SettingsError(f"site {site.name}: cipher images need a key")
    key = read_private_key(site.key, passphrase=site.passphrase())
    width = -(-key.P.bit_length() // 8)
    engine = create_engine(key.public, name=site.engine, threads=site.threads or None)
    return engine, hashlib.sha256(b"ppfl cipher secret\n" + key.P.to_bytes(width, "big")).digest()


def _own_secret(path: Path) -> bytes:
    """The site's own secret, made at its first use, for its owner's eyes only."""
    try:
        handle, part = tempfile.mkstemp(dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
            with suppress(FileExistsError):
                os.link(part, path)  # whole or not at all, and never in place of an older one
        finally:
            os.unlink(part)
        secret = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if len(secret) != _SECRET_BYTES:
        raise DataError(f"{path}: holds {len(secret)} bytes, {_SECRET_BYTES} needed")
    return secret
