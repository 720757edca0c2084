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

from ppfl.crypto.engine import Engine
from ppfl.crypto.gmp import GmpEngine
from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.crypto.lanes import AVX2, InstructionSet, Lanes, Table
from ppfl.crypto.series import opening_series


class NativeEngine(GmpEngine):
    """The scheme by the kernel in `_kernel`; everything runs on all cores.

    Eight ciphertexts at a time by AVX-512 IFMA, or four by AVX2 where the processor has no more.

    Raises:
        SettingsError: the kernel cannot run here, or the key is too long for it.
    """

    name: ClassVar[str] = "native"
    releases_lock: ClassVar[bool] = True
    instructions: ClassVar[InstructionSet | None] = None  # the best that this processor has

    def __init__(
        self, public: PublicKey, private: PrivateKey | None, *, threads: int, s: int = 1
    ) -> None:
        super().__init__(public, private, threads=threads, s=s)
        below, above = self.plaintext_modulus, self.ciphertext_modulus
        self._modulo_N = self._lanes(public.N, bits=public.bits, s=s)
        self._plaintexts = self._lanes(below, bits=below.bit_length())
        self._ciphertexts = self._lanes(above, bits=(s + 1) * public.bits)

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h_N^r by fixed-base tables, modulo P^(s+1) and Q^(s+1) where the primes are known."""
        key = self._private
        if key is None:
            return _raise_base(self._modulo_N, self._public_table, exponents)
        powers = [
            _raise_base(side.lanes, side.table, [r % side.order for r in exponents])
            for side in self._sides
        ]
        other, width = int(key.Q ** (self.s + 1)), self.ciphertext_bytes
        return self._modulo_P_top.combine(*powers, other=other, width=width)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + N)^m·ρ mod N^(s+1)."""
        self._pair(plaintexts, randomizers, left_width=self.plaintext_bytes)
        numbers, below = plaintexts, True
        if self.s > 1:  # else the series is m itself
            numbers, below = self._plaintexts.evaluate(self._series, plaintexts)
        blinded = None
        if below:
            N, width = self.public.N, self.ciphertext_bytes
            blinded = self._plaintexts.blind(numbers, randomizers, factor=N, width=width)
        return super().blind(plaintexts, randomizers) if blinded is None else blinded

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums: products modulo N^(s+1)."""
        self._pair(left, right, left_width=self.ciphertext_bytes)
        return self._ciphertexts.multiply(left, right)

    def check(self, ciphertexts: bytes) -> None:
        """Make sure that each number can be a ciphertext: in [1, N^(s+1)), and coprime to N.

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
        modulo_P = self._sides[0].plaintexts
        return modulo_P.combine(*residues, other=int(key.Q**self.s), width=self.plaintext_bytes)

    @cached_property
    def _public_table(self) -> Table:
        base = int(gmpy2.powmod(self.public.h, self.plaintext_modulus, self.ciphertext_modulus))
        return self._modulo_N.table(base, exponent_bits=self.public.randomizer_bits)

    @cached_property
    def _sides(self) -> tuple[_Side, _Side]:
        key = self._opener()
        return self._side(key.P, half_order=key.p), self._side(key.Q, half_order=key.q)

    def _side(self, prime: int, *, half_order: int) -> _Side:
        return _Side(
            self,
            self._lanes(prime, bits=self._prime_bits, s=self.s),
            self._lanes(int(prime**self.s), bits=self.s * self._prime_bits),
            prime=prime,
            order=2 * half_order,
        )

    @cached_property
    def _modulo_P_top(self) -> Lanes:
        k = self.s + 1
        return self._lanes(int(self._opener().P ** k), bits=k * self._prime_bits)

    @property
    def _prime_bits(self) -> int:
        key = self._opener()
        return max(key.P.bit_length(), key.Q.bit_length())

    def _lanes(self, n: int, *, bits: int, s: int = 0) -> Lanes:
        return Lanes(n, bits=bits, threads=self.threads, s=s, instructions=self.instructions)


class Avx2Engine(NativeEngine):
    """Engine native by AVX2 even where there is AVX-512 IFMA: to compare the two."""

    name: ClassVar[str] = "native-avx2"
    instructions: ClassVar[InstructionSet | None] = AVX2


class _Side:
    """Arithmetic modulo the powers of one of the two primes."""

    def __init__(
        self, engine: Engine, lanes: Lanes, plaintexts: Lanes, *, prime: int, order: int
    ) -> None:
        self.prime, self.order = prime, order
        self.lanes, self.plaintexts = lanes, plaintexts  # modulo prime^(s+1), modulo prime^s
        self._N, self._h, self._s = engine.public.N, engine.public.h, engine.s
        self._width = engine.ciphertext_bytes

    @cached_property
    def table(self) -> Table:
        """Powers of h_N modulo prime^(s+1), for exponents below the order of h."""
        modulus = gmpy2.mpz(self.prime) ** (self._s + 1)
        base = int(gmpy2.powmod(self._h, gmpy2.mpz(self._N) ** self._s, modulus))
        return self.lanes.table(base, exponent_bits=self.order.bit_length())

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts modulo prime^s."""
        plaintexts, own = self._decrypt_with(self.order, ciphertexts)
        foreign = np.flatnonzero(~own)
        if foreign.size:
            rows = np.frombuffer(ciphertexts, np.uint8).reshape(len(own), -1)
            plaintexts[foreign], _ = self._decrypt_with(self.prime - 1, rows[foreign].tobytes())
        return plaintexts.tobytes()

    def _decrypt_with(
        self, exponent: int, ciphertexts: bytes
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The plaintexts, and whether c^exponent is a power of 1 + N: else they mean nothing."""
        rests, quotients = self.lanes.power(ciphertexts, exponent, width=self._width)
        one = np.frombuffer((1).to_bytes(self.lanes.width, "little"), np.uint8)
        series = opening_series(self._N, prime=self.prime, exponent=exponent, s=self._s)
        plaintexts, _ = self.plaintexts.evaluate(series, quotients)
        rows = np.frombuffer(plaintexts, np.uint8).reshape(quotients.shape)
        return rows.copy(), (rests == one).all(axis=1)


def _raise_base(lanes: Lanes, table: Table, exponents: Sequence[int]) -> bytes:
    digits = [r.to_bytes(table.exponent_bytes, "little") for r in exponents]
    return lanes.fixed_base(table, b"".join(digits))
