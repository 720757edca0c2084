"""The reference engine: every step is stock `phe`, so that its results need no trust in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from phe import paillier

from ppfl.crypto.engine import Engine, join_numbers, read_plaintexts, split_numbers
from ppfl.crypto.keys import PrivateKey, PublicKey


class ReferenceEngine(Engine):
    """Paillier by `phe`, one ciphertext after the other: slow, and the oracle of the others."""

    name: ClassVar[str] = "reference"

    def __init__(self, public: PublicKey, private: PrivateKey | None, *, threads: int = 1) -> None:
        super().__init__(public, private, threads=threads)
        self._phe_public = paillier.PaillierPublicKey(public.N)

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h_N^r mod N² as `phe`'s encryption of 0 with the random number h^r mod N."""
        N, h = self.public.N, self.public.h
        encrypt = self._phe_public.raw_encrypt
        return _join([encrypt(0, r_value=pow(h, r, N)) for r in exponents], self.public)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + m·N)·ρ mod N² as `phe`'s sum of an encryption without blinding and ρ."""
        self._pair(plaintexts, randomizers, left_width=self.public.plaintext_bytes)
        bare = [
            self._phe_public.raw_encrypt(int(plaintext), r_value=1)
            for plaintext in read_plaintexts(plaintexts, self.public)
        ]
        return self.add(_join(bare, self.public), randomizers)

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums by `phe`'s encrypted numbers."""
        width = self.public.ciphertext_bytes
        self._pair(left, right, left_width=width)
        sums = [
            paillier.EncryptedNumber(self._phe_public, int(a))
            + paillier.EncryptedNumber(self._phe_public, int(b))
            for a, b in zip(split_numbers(left, width), split_numbers(right, width), strict=True)
        ]
        return _join([number.ciphertext(be_secure=False) for number in sums], self.public)

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts by `phe`'s decryption, with full-length exponents."""
        key = self._opener()
        self._count(ciphertexts, self.public.ciphertext_bytes)
        phe_private = paillier.PaillierPrivateKey(self._phe_public, key.P, key.Q)
        numbers = split_numbers(ciphertexts, self.public.ciphertext_bytes)
        plaintexts = [phe_private.raw_decrypt(int(number)) for number in numbers]
        width = self.public.plaintext_bytes
        return b"".join([number.to_bytes(width, "little") for number in plaintexts])


def _join(ciphertexts: Sequence[int], public: PublicKey) -> bytes:
    return join_numbers(ciphertexts, public.ciphertext_bytes)
