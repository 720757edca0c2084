"""One X-ray in one file that only the holders of the key can open (docs/formats.md).

Pixels, label and patient group lie in Paillier plaintexts, packed without a gap, each encrypted
with fresh randomness under the public key alone. A digest over all of it, and over what stands in
the clear before it, lies inside, too.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.crypto import Engine, EngineName, PrivateKey, PublicKey, create_engine
from ppfl.errors import KeyMismatchError, VaultError
from ppfl.xray.files import read_file

SUFFIX = ".xray"

_MAGIC = b"PPFLXRAY"
_VERSION = 1
_NEW_S = 2  # of files made now: they take 1.5 times their plaintext, at s = 1 they took twice
_HEADER = struct.Struct("<8sHB32sI")  # magic, version, s, key's fingerprint, ciphertexts
_INSIDE = struct.Struct("<IIBHH")  # height, width, bits, bytes of label, bytes of group
_DIGEST_BYTES = 32
_MOST_PIXELS = 100_000_000
_BITS = range(8, 17)
_S = range(1, 4)
_WHOLE = {8: "u1", 16: "<u2"}  # bits of pixels that need no packing
_CHUNK = 2**18  # pixels packed at one time: each takes 16 bytes meanwhile


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


class VaultKey:
    """The key of a vault, and for each s that its files have, an engine, made once.

    An engine has one thread, because each X-ray has a core to itself.

    Args:
        public: the key to seal under.
        private: the key to open with, or None where nothing must be opened.
        engine: which arithmetic to use.
    """

    def __init__(
        self, public: PublicKey, private: PrivateKey | None = None, *, engine: EngineName = "auto"
    ) -> None:
        self.public = public
        self._private, self._name = private, engine
        self._engines: dict[int, Engine] = {}
        self._lock = threading.Lock()

    def engine(self, s: int = _NEW_S) -> Engine:
        """The engine for files of this s, in [1, 3]; for those made now if none is given.

        Raises:
            InvalidKeyError: the private key does not belong to the public one.
            SettingsError: the engine that was asked for cannot run here.
        """
        with self._lock:
            if s not in self._engines:
                self._engines[s] = create_engine(
                    self.public, self._private, name=self._name, threads=1, s=s
                )
            return self._engines[s]


def seal_image(image: VaultImage, key: VaultKey) -> bytes:
    """The file of an X-ray, for which the public key suffices.

    Raises:
        VaultError: the picture is empty, too large, or a pixel has more bits than it says; or
            label or group have more than 65,535 bytes, or are no Unicode, as names of files and
            folders can be.
    """
    height, width = image.pixels.shape
    try:
        label, group = image.label.encode(), image.group.encode()
    except UnicodeEncodeError:
        raise VaultError("the label or group is no Unicode: rename its folder") from None
    if not 0 < height * width <= _MOST_PIXELS or image.bits not in _BITS:
        raise VaultError(f"{width} × {height} pixels of {image.bits} bits do not fit a vault file")
    if int(image.pixels.max()) >> image.bits:
        raise VaultError(f"a pixel has more than {image.bits} bits")
    if max(len(label), len(group)) >= 2**16:
        raise VaultError("a label or group has more than 65,535 bytes")
    inside = _INSIDE.pack(height, width, image.bits, len(label), len(group))
    inside += label + group + _pack(image.pixels, image.bits)
    engine = key.engine()
    step = _plaintext_step(engine)
    count = -(-(len(inside) + _DIGEST_BYTES) // step)
    fingerprint = bytes.fromhex(key.public.fingerprint)
    header = _HEADER.pack(_MAGIC, _VERSION, engine.s, fingerprint, count)
    inside += hashlib.sha256(header + inside).digest()
    rows = np.zeros((count, engine.plaintext_bytes), np.uint8)
    filled = np.frombuffer(inside.ljust(count * step, b"\0"), np.uint8)
    rows[:, :step] = filled.reshape(count, step)
    return header + engine.encrypt(rows.tobytes())


def open_image(data: bytes, key: VaultKey) -> VaultImage:
    """The X-ray in a file.

    Raises:
        VaultError: the file is no vault file of this version, was cut short or changed.
        KeyMismatchError: it is sealed under another key.
        MalformedMessageError: it holds a number that is no ciphertext.
        InvalidKeyError: the key is the public one.
    """
    engine, ciphertexts = check_file(data, key)
    step = _plaintext_step(engine)
    rows = np.frombuffer(engine.decrypt(ciphertexts), np.uint8)
    rows = rows.reshape(-1, engine.plaintext_bytes)
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
    if -(-end // step) != len(rows) or any(inside[end:]):
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


def tell_apart(theirs: str, ours: str) -> tuple[str, str]:
    """Two unequal fingerprints, cut to 16 digits, or to the first in which they differ."""
    first = next(at for at, digit in enumerate(ours) if digit != theirs[at])
    shown = max(first + 1, 16)
    return f"{theirs[:shown]}…", f"{ours[:shown]}…"


def check_file(data: bytes, key: VaultKey) -> tuple[Engine, bytes]:
    """A file's ciphertexts and the engine for them, after all checks that need no private key.

    Raises:
        VaultError: the file is no vault file of this version, or not as long as it says.
        KeyMismatchError: it is sealed under another key.
        MalformedMessageError: it holds a number that is no ciphertext.
    """
    s, fingerprint, count = _unpack_header(data)
    if fingerprint != key.public.fingerprint:
        theirs, ours = tell_apart(fingerprint, key.public.fingerprint)
        raise KeyMismatchError(f"sealed under key {theirs}, this key is {ours}")
    engine = key.engine(s)
    size = _HEADER.size + count * engine.ciphertext_bytes
    if count < 1 or len(data) != size:
        raise VaultError(f"a vault file of {len(data)} bytes, {size} needed")
    ciphertexts = data[_HEADER.size :]
    engine.check(ciphertexts)
    return engine, ciphertexts


def read_fingerprint(path: Path) -> str:
    """The fingerprint of the key that a file is sealed under; nothing else of it is looked at.

    Raises:
        VaultError: it is no vault file of this version.
        DataError: it cannot be read.
    """
    return _unpack_header(read_file(path, first=_HEADER.size))[1]


def _unpack_header(data: bytes) -> tuple[int, str, int]:
    """s, the key's fingerprint, and how many ciphertexts there are said to be."""
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise VaultError("not a vault file")
    _, version, s, fingerprint, count = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise VaultError(
            f"a vault file of version {version}, this program reads {_VERSION}",
            hint="open it with the ppfl that made it, or a later one",
        )
    if s not in _S:
        raise VaultError(f"a vault file of s = {s}, from 1 to 3 needed")
    return s, fingerprint.hex(), count


def _plaintext_step(engine: Engine) -> int:
    """Whole bytes that any plaintext can hold."""
    return engine.plaintext_bits // 8


def _pack(pixels: NDArray[np.uint16], bits: int) -> bytes:
    """Pixels row by row, ``bits`` each, lowest bit first."""
    if bits in _WHOLE:
        return pixels.astype(_WHOLE[bits]).tobytes()
    flat = pixels.astype("<u2").reshape(-1, 1)
    parts = []
    for at in range(0, len(flat), _CHUNK):
        octets = flat[at : at + _CHUNK].view(np.uint8)
        spread = np.unpackbits(octets, axis=1, bitorder="little")[:, :bits]
        parts.append(np.packbits(spread, bitorder="little").tobytes())
    return b"".join(parts)


def _unpack(packed: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    if bits in _WHOLE:
        return np.frombuffer(packed, _WHOLE[bits]).astype(np.uint16)
    octets = np.frombuffer(packed, np.uint8)
    pixels = np.empty(count, np.uint16)
    for at in range(0, count, _CHUNK):
        some = min(_CHUNK, count - at)
        spread = np.unpackbits(octets[at * bits // 8 :], count=some * bits, bitorder="little")
        rows = np.zeros((some, 16), np.uint8)
        rows[:, :bits] = spread.reshape(some, bits)
        whole = np.packbits(rows, axis=1, bitorder="little")
        pixels[at : at + some] = whole.view("<u2").reshape(-1)
    return pixels
