"""The engine on vector registers: the steps of :mod:`ppfl.crypto.gmp`, ciphertexts side by side.

What is refused, and why, is left to GMP, so that both engines give the same errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import gmpy2
import numpy as np
from numpy.typing import NDArray

from ppfl.crypto.gmp import GmpEngine
from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.crypto.lanes import AVX2, InstructionSet, Lanes, Table
from ppfl.errors import SettingsError


class NativeEngine(GmpEngine):
    """Paillier by the kernel in `_kernel`; everything runs on all cores.

    Eight ciphertexts at a time by AVX-512 IFMA, or four by AVX2 where the processor has no more.

    Raises:
        SettingsError: the kernel cannot run here, the key is too long for it, or s is not 1.
    """

    name: ClassVar[str] = "native"
    releases_lock: ClassVar[bool] = True
    instructions: ClassVar[InstructionSet | None] = None  # the best that this processor has

    def __init__(
        self, public: PublicKey, private: PrivateKey | None, *, threads: int, s: int = 1
    ) -> None:
        super().__init__(public, private, threads=threads, s=s)
        if s > 1:
            raise SettingsError(f"engine native does not know s = {s}", hint="use engine gmp")
        self._modulo_N = self._lanes(public.N, bits=public.bits)
        self._modulo_N2 = self._lanes(self.ciphertext_modulus, bits=2 * public.bits)

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h_N^r mod N² by fixed-base tables, modulo P² and Q² where the primes are known."""
        if self._private is None:
            return _raise_base(self._modulo_N, self._public_table, exponents)
        powers = [
            _raise_base(side.lanes, side.table, [r % side.order for r in exponents])
            for side in self._sides
        ]
        width = self.ciphertext_bytes
        return self._modulo_P2.combine(*powers, other=self._private.Q**2, width=width)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + m·N)·ρ mod N²."""
        self._pair(plaintexts, randomizers, left_width=self.plaintext_bytes)
        blinded = self._modulo_N.blind(plaintexts, randomizers)
        return super().blind(plaintexts, randomizers) if blinded is None else blinded

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums: products modulo N²."""
        self._pair(left, right, left_width=self.ciphertext_bytes)
        return self._modulo_N2.multiply(left, right)

    def check(self, ciphertexts: bytes) -> None:
        """Make sure that each number can be a ciphertext: in [1, N²), and coprime to N.

        Raises:
            MalformedMessageError: one is not; the message gives its position.
        """
        self._count(ciphertexts, self.ciphertext_bytes)
        product = self._modulo_N.product(ciphertexts)
        if product is None or gmpy2.gcd(product, self.public.N) != 1:
            super().check(ciphertexts)

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts by Chinese remainders and short exponents.

        Ciphertexts with randomness from elsewhere are opened with the full exponent.
        """
        key = self._opener()
        self._count(ciphertexts, self.ciphertext_bytes)
        residues = [side.decrypt(ciphertexts) for side in self._sides]
        modulo_P = self._sides[0].lanes
        return modulo_P.combine(*residues, other=key.Q, width=self.plaintext_bytes)

    @cached_property
    def _public_table(self) -> Table:
        base = int(gmpy2.powmod(self.public.h, self.public.N, self.ciphertext_modulus))
        return self._modulo_N.table(base, exponent_bits=self.public.randomizer_bits)

    @cached_property
    def _sides(self) -> tuple[_Side, _Side]:
        key = self._opener()
        bits = max(key.P.bit_length(), key.Q.bit_length())
        return (
            _Side(key.public, self._lanes(key.P, bits=bits), prime=key.P, half_order=key.p),
            _Side(key.public, self._lanes(key.Q, bits=bits), prime=key.Q, half_order=key.q),
        )

    @cached_property
    def _modulo_P2(self) -> Lanes:
        key = self._opener()
        bits = max(key.P.bit_length(), key.Q.bit_length())
        return self._lanes(key.P**2, bits=2 * bits)

    def _lanes(self, n: int, *, bits: int) -> Lanes:
        return Lanes(n, bits=bits, threads=self.threads, instructions=self.instructions)


class Avx2Engine(NativeEngine):
    """Engine native by AVX2 even where there is AVX-512 IFMA: to compare the two."""

    name: ClassVar[str] = "native-avx2"
    instructions: ClassVar[InstructionSet | None] = AVX2


class _Side:
    """Arithmetic modulo the square of one of the two primes."""

    def __init__(self, public: PublicKey, lanes: Lanes, *, prime: int, half_order: int) -> None:
        self.prime, self.order = prime, 2 * half_order
        self.lanes = lanes
        self._public = public
        self._width = -(-2 * public.bits // 8)

    @cached_property
    def table(self) -> Table:
        """Powers of h_N modulo the prime's square, for exponents below the order of h."""
        base = int(gmpy2.powmod(self._public.h, self._public.N, self.prime**2))
        return self.lanes.table(base, exponent_bits=self.order.bit_length())

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts modulo the prime."""
        plaintexts, own = self._decrypt_with(self.order, ciphertexts)
        foreign = np.flatnonzero(~own)
        if foreign.size:
            rows = np.frombuffer(ciphertexts, np.uint8).reshape(len(own), -1)
            plaintexts[foreign], _ = self._decrypt_with(self.prime - 1, rows[foreign].tobytes())
        return plaintexts.tobytes()

    def _decrypt_with(
        self, exponent: int, ciphertexts: bytes
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """L(c^exponent)·L((1 + N)^exponent)^(−1), and whether the exponent fits c."""
        powers = self.lanes.power(ciphertexts, exponent, width=self._width)
        one = np.frombuffer((1).to_bytes(self.lanes.width, "little"), np.uint8)
        fits = (powers[:, 0] == one).all(axis=1)
        scale = int(gmpy2.invert(exponent * (self._public.N // self.prime), self.prime))
        quotients = np.ascontiguousarray(powers[:, 1])
        scaled = self.lanes.multiply(quotients, scale.to_bytes(self.lanes.width, "little"))
        return np.frombuffer(scaled, np.uint8).reshape(quotients.shape).copy(), fits


def _raise_base(lanes: Lanes, table: Table, exponents: Sequence[int]) -> bytes:
    digits = [r.to_bytes(table.exponent_bytes, "little") for r in exponents]
    return lanes.fixed_base(table, b"".join(digits))
