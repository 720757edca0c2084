"""Cipher images: X-rays in which every pixel is replaced by bytes of its ciphertext [BABK22].

This is no encryption. To a network that takes them for numbers and has no key, ciphertexts teach
only what they leak, and encryption is that they leak nothing [GM84]. (Computing under the
encryption, as fully homomorphic schemes can and Paillier's cannot, is another matter: its result is
encrypted, too.) So such a network can be trained only if equal pixels give equal ciphertexts,
that is if the randomness is fixed. What remains is a code book of 256 entries, in which all
structure of the picture is kept. With fresh randomness for each pixel, as Paillier's scheme
prescribes, nothing is learnt.

A pixel m in [0, 255] has the ciphertext c(m) = (1 + N)^m · ρ mod N², Paillier's with s = 1. Under
one ρ that is ρ + N·(m·ρ mod N) mod N²: the book's entries are no 256 free numbers, but lie in equal
steps of ρ modulo N, so that two known entries give all others.

[BABK22] W. Boulila, A. Ammar, B. Benjdira, A. Koubaa, "Securing the Classification of COVID-19 in
Chest X-ray Images: A Privacy-Preserving Deep Learning Approach", 2022, arXiv 2203.07728, §3.
[GM84] S. Goldwasser, S. Micali, "Probabilistic Encryption", JCSS 28, 1984.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ppfl.crypto import Engine
from ppfl.errors import SettingsError

LEVELS = 256
CHANNELS = 3
_CLEAR = 0.99  # correlation with the grey level below which a byte is no clear picture
_TOP = 2 ** (8 * CHANNELS) - 1
_AT_ONCE = 8192  # ciphertexts in memory at one time


class CodeBook:
    """The 256 ciphertexts that all pixels get under one ρ, in the order of the grey levels.

    ``N`` is the public key's.
    """

    def __init__(self, ciphertexts: Sequence[int], N: int) -> None:
        self.ciphertexts = tuple(ciphertexts)
        self.N = N

    @classmethod
    def with_fixed_randomness(cls, engine: Engine, secret: bytes) -> Self:
        """The code book of a secret: ρ = h^(r·N) mod N², with r drawn from it by SHAKE-256.

        Raises:
            SettingsError: the engine is not Paillier's, with s = 1.
        """
        bits = engine.public.randomizer_bits
        drawn = hashlib.shake_256(b"ppfl cipher images, version 1\n" + secret).digest(-(-bits // 8))
        exponent = int.from_bytes(drawn, "little") % 2**bits
        return cls._under(engine, engine.randomizers([exponent]))

    @classmethod
    def without_randomness(cls, engine: Engine) -> Self:
        """The code book of ρ = 1, which anyone can make: c(m) = 1 + m·N.

        Raises:
            SettingsError: the engine is not Paillier's, with s = 1.
        """
        return cls._under(engine, (1).to_bytes(engine.ciphertext_bytes, "little"))

    @classmethod
    def _under(cls, engine: Engine, randomizer: bytes) -> Self:
        _require_paillier(engine)
        levels = _plaintexts(np.arange(LEVELS, dtype=np.uint8), engine)
        width = engine.ciphertext_bytes
        sealed = engine.blind(levels, randomizer * LEVELS)
        numbers = (sealed[start : start + width] for start in range(0, len(sealed), width))
        return cls([int.from_bytes(number, "little") for number in numbers], engine.public.N)

    def correlated_bytes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cipher images (n, h, w, 3) of grey ones (n, h, w): the bytes that show most of a picture.

        A byte of c(m) steps by nearly the same from grey to grey, modulo 256. Among thousands there
        are some with short steps, in which a picture is there for all to see, at most folded
        at some greys. The three that correlate most with the grey level are the channels; one that
        correlates less than 0.99 gives way to the best, because what it adds is noise. A byte is
        any eight neighbouring bits: of those that start at a multiple of eight the best often use
        few of their 256 values, and the same picture lies a few bits lower with more contrast. Each
        channel is stretched to all of 0 to 255, and turned round where it is a negative.
        """
        width = -(-(self.N**2).bit_length() // 8)
        numbers = b"".join(number.to_bytes(width, "little") for number in self.ciphertexts)
        aligned = np.frombuffer(numbers, np.uint8).reshape(LEVELS, width)
        bits = np.unpackbits(aligned, axis=1, bitorder="little")
        windows = np.lib.stride_tricks.sliding_window_view(bits, 8, axis=1)
        table = np.packbits(windows, axis=2, bitorder="little")[..., 0]
        centred = table - table.mean(axis=0)
        greys = np.arange(LEVELS) - (LEVELS - 1) / 2
        spread = np.sqrt((greys**2).sum() * (centred**2).sum(axis=0))
        along = greys @ centred
        correlation = np.divide(along, spread, out=np.zeros(len(spread)), where=spread > 0)
        clarity = abs(correlation)
        chosen = np.argsort(-clarity, kind="stable")[:CHANNELS]
        chosen = np.where(clarity[chosen] < _CLEAR, chosen[0], chosen)
        shown = table[:, chosen] * np.sign(correlation[chosen])
        low, high = shown.min(axis=0), shown.max(axis=0)
        book: NDArray[np.uint8] = np.rint((shown - low) * 255 / (high - low)).astype(np.uint8)
        return book[images]

    def highest_bytes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cipher images (n, h, w, 3) of grey ones (n, h, w): ciphertexts taken for numbers.

        They are scaled so that the lowest of the code book is 0 and the highest 1, in 24 bits,
        whose bytes are the channels, highest first.
        """
        low, high = min(self.ciphertexts), max(self.ciphertexts)
        scaled = [(number - low) * _TOP // (high - low) for number in self.ciphertexts]
        book = [list(number.to_bytes(CHANNELS, "big")) for number in scaled]
        return np.array(book, np.uint8)[images]

    def low_byte(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cipher images (n, h, w, 3) whose three equal channels are c mod 256.

        Grey levels whose ciphertexts end in the same byte become one.
        """
        book = np.array([number % 256 for number in self.ciphertexts], np.uint8)
        return np.repeat(book[images][..., np.newaxis], CHANNELS, axis=-1)


def encrypt_pixels(images: NDArray[np.uint8], engine: Engine) -> NDArray[np.uint8]:
    """Cipher images (n, h, w, 3) of grey ones (n, h, w), with fresh randomness for each pixel.

    The channels are the first 24 bits of c / N². At 3072 bits a million pixels take about a
    minute on two cores with engine ``native``.

    Raises:
        SettingsError: the engine is not Paillier's, with s = 1.
    """
    _require_paillier(engine)
    pixels, width = images.ravel(), engine.ciphertext_bytes
    channels = np.empty((pixels.size, CHANNELS), np.uint8)
    for start in range(0, pixels.size, _AT_ONCE):
        some = pixels[start : start + _AT_ONCE]
        sealed = engine.encrypt(_plaintexts(some, engine))
        for i in range(len(some)):
            number = int.from_bytes(sealed[i * width : (i + 1) * width], "little")
            scaled = (number << 8 * CHANNELS) // engine.ciphertext_modulus
            channels[start + i] = list(scaled.to_bytes(CHANNELS, "big"))
    return channels.reshape(*images.shape, CHANNELS)


def _plaintexts(pixels: NDArray[np.uint8], engine: Engine) -> bytes:
    rows = np.zeros((len(pixels), engine.plaintext_bytes), np.uint8)
    rows[:, 0] = pixels
    return rows.tobytes()


def _require_paillier(engine: Engine) -> None:
    if engine.s != 1:
        raise SettingsError(f"cipher images are made with s = 1, not {engine.s}")
