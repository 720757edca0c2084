"""The interface behind which arithmetic on whole vectors can be exchanged.

The scheme is Damgård and Jurik's, of which Paillier's is the case s = 1 [DJ01]::

    c = (1 + N)^m · ρ mod N^(s+1)       with m in [0, N^s) and ρ = h^(r·N^s) mod N^(s+1)

The larger s, the less of a ciphertext is lost: s parts of s + 1 are plaintext. For every s it is as
secure as Paillier's [DJ01, theorem 1], and short exponents r concern h^r modulo N, which does not
depend on s. Keys are the same for every s.

A vector of plaintexts or ciphertexts is ``bytes``: numbers of equal width, least significant byte
first, one after the other. An engine is all arithmetic and no policy; two engines give the same
bytes for the same exponents.

[DJ01] I. Damgård, M. Jurik, "A Generalisation, a Simplification and Some Applications of Paillier's
Probabilistic Public-Key System", PKC 2001.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import gmpy2

from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.errors import InvalidKeyError, MalformedMessageError, SettingsError

_MOST_S = 3  # beyond, little is gained: 4/3 of the plaintext's bytes here, 5/4 at s = 4


class Engine(ABC):
    """Paillier's scheme, or Damgård and Jurik's, on vectors, for one key.

    Args:
        public: the key to encrypt and add under.
        private: the key to open with, or None at a party that must not open anything.
        threads: how many cores to use, at least 1.
        s: a plaintext has s times N's bits, a ciphertext s + 1 times; in [1, 3].

    Raises:
        InvalidKeyError: the private key does not belong to the public one.
        SettingsError: s is out of range.
    """

    name: ClassVar[str]
    releases_lock: ClassVar[bool] = False
    """Whether other Python threads go on while this engine makes randomizers."""

    def __init__(
        self, public: PublicKey, private: PrivateKey | None, *, threads: int, s: int = 1
    ) -> None:
        if private is not None and private.public != public:
            raise InvalidKeyError("the private key does not belong to the public key")
        if not 1 <= s <= _MOST_S:
            raise SettingsError(f"s is {s}, but must be from 1 to {_MOST_S}")
        self.public = public
        self.s = s
        self.threads = max(1, threads)
        self._private = private

    @cached_property
    def plaintext_modulus(self) -> int:
        """N^s."""
        return int(self.public.N**self.s)

    @cached_property
    def ciphertext_modulus(self) -> int:
        """N^(s+1)."""
        return int(self.public.N ** (self.s + 1))

    @property
    def plaintext_bits(self) -> int:
        """Bits that any plaintext can hold: one fewer than N^s has."""
        return self.plaintext_modulus.bit_length() - 1

    @property
    def plaintext_bytes(self) -> int:
        """Bytes of one plaintext in a vector."""
        return -(-self.plaintext_modulus.bit_length() // 8)

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext in a vector."""
        return -(-(self.s + 1) * self.public.bits // 8)

    def encrypt(self, plaintexts: bytes) -> bytes:
        """Ciphertexts of plaintexts in [0, N^s), each with fresh randomness.

        Raises:
            MalformedMessageError: the length is no multiple of the width, or a plaintext is not
                below N^s.
        """
        count = self.count_plaintexts(plaintexts)
        return self.blind(plaintexts, self.fresh_randomizers(count))

    def fresh_randomizers(self, count: int) -> bytes:
        """(count,) randomizers with exponents from the system's source of randomness.

        Each may blind one ciphertext only, and must never leave its maker unused.
        """
        bits = self.public.randomizer_bits
        return self.randomizers([secrets.randbits(bits) for _ in range(count)])

    @abstractmethod
    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h^(r·N^s) mod N^(s+1) for each r in [0, 2**randomizer_bits): encryptions of 0."""

    @abstractmethod
    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + N)^m·ρ mod N^(s+1) for each plaintext m and its randomizer ρ."""

    @abstractmethod
    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums, element by element, of two vectors of equal length."""

    @abstractmethod
    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts in [0, N^s) of ciphertexts that have passed :meth:`check`.

        Raises:
            InvalidKeyError: this engine holds no private key.
        """

    def check(self, ciphertexts: bytes) -> None:
        """Make sure that each number can be a ciphertext: in [1, N^(s+1)), and coprime to N.

        Raises:
            MalformedMessageError: one is not; the message gives its position.
        """
        N, modulus = gmpy2.mpz(self.public.N), gmpy2.mpz(self.ciphertext_modulus)
        width = self.ciphertext_bytes
        self._count(ciphertexts, width)
        product = gmpy2.mpz(1)
        numbers = split_numbers(ciphertexts, width)
        for position, number in enumerate(numbers):
            if not 0 < number < modulus:
                raise MalformedMessageError(f"ciphertext {position} is not in [1, N^{self.s + 1})")
            product = product * number % N
        if gmpy2.gcd(product, N) != 1:
            position = next(i for i, number in enumerate(numbers) if gmpy2.gcd(number, N) != 1)
            raise MalformedMessageError(f"ciphertext {position} shares a factor with N")

    def count_plaintexts(self, plaintexts: bytes) -> int:
        """How many plaintexts a vector holds.

        Raises:
            MalformedMessageError: its length is no multiple of a plaintext's width.
        """
        return self._count(plaintexts, self.plaintext_bytes)

    def _pair(self, left: bytes, right: bytes, *, left_width: int) -> None:
        """Make sure that two vectors are of equal length."""
        right_count = self._count(right, self.ciphertext_bytes)
        if self._count(left, left_width) != right_count:
            raise MalformedMessageError("two vectors of different lengths cannot be combined")

    def _read_plaintexts(self, plaintexts: bytes) -> list[gmpy2.mpz]:
        """The plaintexts of a vector, checked to be below N^s.

        Raises:
            MalformedMessageError: one is not; the message gives its position, never its value.
        """
        modulus = self.plaintext_modulus
        numbers = split_numbers(plaintexts, self.plaintext_bytes)
        for position, number in enumerate(numbers):
            if number >= modulus:
                raise MalformedMessageError(f"plaintext {position} is not below N^{self.s}")
        return numbers

    def _opener(self) -> PrivateKey:
        if self._private is None:
            raise InvalidKeyError("only a holder of the private key can decrypt")
        return self._private

    @staticmethod
    def _count(vector: bytes, width: int) -> int:
        count, rest = divmod(len(vector), width)
        if rest:
            raise MalformedMessageError(f"{len(vector)} bytes are no whole numbers of {width} each")
        return count


def split_numbers(vector: bytes, width: int) -> list[gmpy2.mpz]:
    """The numbers of a vector."""
    from_bytes = gmpy2.mpz.from_bytes
    return [
        from_bytes(vector[start : start + width], "little")
        for start in range(0, len(vector), width)
    ]


def join_numbers(numbers: Iterable[gmpy2.mpz], width: int) -> bytes:
    """The vector of some numbers, each below 256**width."""
    return b"".join([number.to_bytes(width, "little") for number in numbers])
