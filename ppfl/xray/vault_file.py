"""One X-ray in one file that only the holders of the key can open (docs/formats.md).

Pixels, label and patient group lie in Paillier plaintexts, packed without a gap, each encrypted
with fresh randomness under the public key alone. A digest over all of it, and over what stands in
the clear before it, lies inside, too.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.crypto import Engine
from ppfl.errors import KeyMismatchError, VaultError

SUFFIX = ".xray"

_MAGIC = b"PPFLXRAY"
_VERSION = 1
_HEADER = struct.Struct("<8sH32sI")  # magic, version, key's fingerprint, ciphertexts
_INSIDE = struct.Struct("<IIBHH")  # height, width, bits, bytes of label, bytes of group
_DIGEST_BYTES = 32
_MOST_PIXELS = 100_000_000
_BITS = range(8, 17)


@dataclass(frozen=True, slots=True, eq=False)
class VaultImage:
    """What a vault file holds.

    ``pixels`` (height, width) in [0, 2**bits), grey, 0 is black, ``bits`` in [8, 16]; ``label`` is
    the class, ``group`` the patient, or what else must stay on one side of a split.
    """

    pixels: NDArray[np.uint16]
    bits: int
    label: str
    group: str


def seal_image(image: VaultImage, engine: Engine) -> bytes:
    """The file of an X-ray; the engine needs no private key.

    Raises:
        VaultError: the picture is empty, too large, or a pixel has more bits than it says; or
            label or group have more than 65,535 bytes.
    """
    height, width = image.pixels.shape
    label, group = image.label.encode(), image.group.encode()
    if not 0 < height * width <= _MOST_PIXELS or image.bits not in _BITS:
        raise VaultError(f"{width} × {height} pixels of {image.bits} bits do not fit a vault file")
    if int(image.pixels.max()) >> image.bits:
        raise VaultError(f"a pixel has more than {image.bits} bits")
    if max(len(label), len(group)) >= 2**16:
        raise VaultError("a label or group has more than 65,535 bytes")
    inside = _INSIDE.pack(height, width, image.bits, len(label), len(group))
    inside += label + group + _pack(image.pixels, image.bits)
    step = _plaintext_step(engine)
    count = -(-(len(inside) + _DIGEST_BYTES) // step)
    header = _HEADER.pack(_MAGIC, _VERSION, bytes.fromhex(engine.public.fingerprint), count)
    inside += hashlib.sha256(header + inside).digest()
    rows = np.zeros((count, engine.plaintext_bytes), np.uint8)
    filled = np.frombuffer(inside.ljust(count * step, b"\0"), np.uint8)
    rows[:, :step] = filled.reshape(count, step)
    return header + engine.encrypt(rows.tobytes())


def open_image(data: bytes, engine: Engine) -> VaultImage:
    """The X-ray in a file.

    Raises:
        VaultError: the file is no vault file of this version, was cut short or changed.
        KeyMismatchError: it is sealed under another key.
        InvalidKeyError: the engine holds no private key.
    """
    count = read_header(data, engine)
    ciphertexts = data[_HEADER.size :]
    engine.check(ciphertexts)
    step = _plaintext_step(engine)
    rows = np.frombuffer(engine.decrypt(ciphertexts), np.uint8)
    rows = rows.reshape(count, engine.plaintext_bytes)
    inside = rows[:, :step].tobytes()
    changed = VaultError("the file was changed or damaged after it was sealed")
    if rows[:, step:].any():
        raise changed
    height, width, bits, label_bytes, group_bytes = _INSIDE.unpack_from(inside)
    if bits not in _BITS or not 0 < height * width <= _MOST_PIXELS:
        raise changed
    pixels_at = _INSIDE.size + label_bytes + group_bytes
    digest_at = pixels_at + -(-height * width * bits // 8)
    end = digest_at + _DIGEST_BYTES
    if -(-end // step) != count or any(inside[end:]):
        raise changed
    if hashlib.sha256(data[: _HEADER.size] + inside[:digest_at]).digest() != inside[digest_at:end]:
        raise changed
    group_at = _INSIDE.size + label_bytes
    try:
        label, group = inside[_INSIDE.size : group_at].decode(), inside[group_at:pixels_at].decode()
    except UnicodeDecodeError:
        raise changed from None
    pixels = _unpack(inside[pixels_at:digest_at], height * width, bits)
    return VaultImage(pixels.reshape(height, width), bits, label, group)


def read_fingerprint(path: Path) -> str:
    """The fingerprint of the key that a file is sealed under, without a look at anything else.

    Raises:
        VaultError: it is no vault file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
    except OSError as error:
        raise VaultError(f"{path}: {error.strerror}") from None
    try:
        return _unpack_header(start)[1]
    except VaultError as error:
        raise VaultError(f"{path}: {error}") from None


def read_header(data: bytes, engine: Engine) -> int:
    """How many ciphertexts a file holds, after all checks that need no private key but one.

    What the ciphertexts are, :meth:`Engine.check` tells.

    Raises:
        VaultError: the file is no vault file of this version, or not as long as it says.
        KeyMismatchError: it is sealed under another key.
    """
    version, fingerprint, count = _unpack_header(data)
    if version != _VERSION:
        raise VaultError(
            f"a vault file of version {version}, this program reads {_VERSION}",
            hint="open it with the ppfl that made it, or a later one",
        )
    if fingerprint != engine.public.fingerprint:
        raise KeyMismatchError(
            f"sealed under key {fingerprint[:16]}…, this key is {engine.public.fingerprint[:16]}…"
        )
    size = _HEADER.size + count * engine.ciphertext_bytes
    if count < 1 or len(data) != size:
        raise VaultError(f"a vault file of {len(data)} bytes, {size} needed")
    return count


def _unpack_header(data: bytes) -> tuple[int, str, int]:
    """Version, the key's fingerprint, and how many ciphertexts there are said to be."""
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise VaultError("not a vault file")
    _, version, fingerprint, count = _HEADER.unpack_from(data)
    return version, fingerprint.hex(), count


def _plaintext_step(engine: Engine) -> int:
    """Whole bytes that any plaintext can hold."""
    return engine.plaintext_bits // 8


def _pack(pixels: NDArray[np.uint16], bits: int) -> bytes:
    """Pixels row by row, ``bits`` each, lowest bit first."""
    flat = pixels.astype("<u2").reshape(-1, 1)
    spread = np.unpackbits(flat.view(np.uint8), axis=1, bitorder="little")[:, :bits]
    return np.packbits(spread, bitorder="little").tobytes()


def _unpack(packed: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    spread = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    rows = np.zeros((count, 16), np.uint8)
    rows[:, :bits] = spread[: count * bits].reshape(count, bits)
    return np.packbits(rows, axis=1, bitorder="little").view("<u2").reshape(-1).astype(np.uint16)
