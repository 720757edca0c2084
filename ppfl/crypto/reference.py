"""The reference engine: every step is stock `phe`, so that its results need no trust in ours.

`phe` knows s = 1 only. Beyond, Python's integers do what the paper [DJ01, §3] writes, without short
exponents, remainders or series.

[DJ01] I. Damgård, M. Jurik, "A Generalisation, a Simplification and Some Applications of Paillier's
Probabilistic Public-Key System", PKC 2001.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb, lcm
from typing import ClassVar, Protocol

from phe import paillier

from ppfl.crypto.engine import Engine, join_numbers, split_numbers
from ppfl.crypto.keys import PrivateKey, PublicKey


class ReferenceEngine(Engine):
    """The scheme one ciphertext after the other: slow, and the oracle of the others."""

    name: ClassVar[str] = "reference"

    def __init__(
        self, public: PublicKey, private: PrivateKey | None, *, threads: int = 1, s: int = 1
    ) -> None:
        super().__init__(public, private, threads=threads, s=s)
        self._scheme: _Scheme = _Phe(public.N) if s == 1 else _Integers(public.N, s)

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """Encryptions of 0 with the random number h^r mod N."""
        N, h = self.public.N, self.public.h
        return self._join(self._scheme.encrypt(0, pow(h, r, N)) for r in exponents)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """Sums of encryptions without blinding and the randomizers."""
        self._pair(plaintexts, randomizers, left_width=self.plaintext_bytes)
        numbers = self._read_plaintexts(plaintexts)
        bare = self._join(self._scheme.encrypt(int(number), 1) for number in numbers)
        return self.add(bare, randomizers)

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums."""
        width = self.ciphertext_bytes
        self._pair(left, right, left_width=width)
        pairs = zip(split_numbers(left, width), split_numbers(right, width), strict=True)
        return self._join(self._scheme.add(int(a), int(b)) for a, b in pairs)

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts by full-length exponents."""
        key = self._opener()
        self._count(ciphertexts, self.ciphertext_bytes)
        numbers = split_numbers(ciphertexts, self.ciphertext_bytes)
        plaintexts = (self._scheme.decrypt(int(number), key) for number in numbers)
        return join_numbers(plaintexts, self.plaintext_bytes)

    def _join(self, ciphertexts: Iterable[int]) -> bytes:
        return join_numbers(ciphertexts, self.ciphertext_bytes)


class _Scheme(Protocol):
    def encrypt(self, plaintext: int, random_number: int) -> int: ...

    def add(self, left: int, right: int) -> int: ...

    def decrypt(self, ciphertext: int, key: PrivateKey) -> int: ...


class _Phe:
    """s = 1, by `phe`."""

    def __init__(self, N: int) -> None:
        self._public = paillier.PaillierPublicKey(N)

    def encrypt(self, plaintext: int, random_number: int) -> int:
        return int(self._public.raw_encrypt(plaintext, r_value=random_number))

    def add(self, left: int, right: int) -> int:
        total = paillier.EncryptedNumber(self._public, left)
        total += paillier.EncryptedNumber(self._public, right)
        return int(total.ciphertext(be_secure=False))

    def decrypt(self, ciphertext: int, key: PrivateKey) -> int:
        private = paillier.PaillierPrivateKey(self._public, key.P, key.Q)
        return int(private.raw_decrypt(ciphertext))


class _Integers:
    """Any s, as [DJ01, §3] writes it."""

    def __init__(self, N: int, s: int) -> None:
        self._N, self._s = N, s

    def encrypt(self, plaintext: int, random_number: int) -> int:
        N, modulus = self._N, self._N ** (self._s + 1)
        bare, rho = pow(1 + N, plaintext, modulus), pow(random_number, N**self._s, modulus)
        return int(bare * rho % modulus)

    def add(self, left: int, right: int) -> int:
        return int(left * right % self._N ** (self._s + 1))

    def decrypt(self, ciphertext: int, key: PrivateKey) -> int:
        exponent = lcm(key.P - 1, key.Q - 1)
        power = pow(ciphertext, exponent, self._N ** (self._s + 1))
        modulus = self._N**self._s
        return int(self._logarithm(power) * pow(exponent, -1, modulus) % modulus)

    def _logarithm(self, power: int) -> int:
        """The i with (1 + N)^i = power: modulo N, then modulo N² from that, and so on."""
        N, i = self._N, 0
        for j in range(1, self._s + 1):
            beyond = sum(comb(i, k) * N ** (k - 1) for k in range(2, j + 1))
            i = (power % N ** (j + 1) // N - beyond) % N**j
        return i
