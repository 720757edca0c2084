"""The engine on GMP: fixed-base tables, Chinese remainders, short exponents.

h_N^r with fixed-base tables: r = Σ d_i·2^(w·i), so h_N^r = Π T_i[d_i] with T_i[d] =
h_N^(d·2^(w·i)): one multiplication per digit of w bits and no squaring [HAC, §14.6.3]. A holder of
the primes does this modulo P² and Q², where h has order 2p and 2q: r is drawn once and reduced
modulo both, because two independent draws would let the signs of h's roots differ and mark such
ciphertexts by their Jacobi symbol.

[HAC] A. Menezes, P. van Oorschot, S. Vanstone, "Handbook of Applied Cryptography", 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ClassVar

import gmpy2
from gmpy2 import mpz

from ppfl.crypto.engine import Engine, join_numbers, read_plaintexts, split_numbers
from ppfl.crypto.keys import PublicKey

_WINDOW_BITS = 10  # 11 MB of table for each prime of a 3072-bit key, built in 0.1 s


class GmpEngine(Engine):
    """Paillier by gmpy2; decryption runs on all cores."""

    name: ClassVar[str] = "gmp"

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h_N^r mod N² by fixed-base tables, modulo P² and Q² where the primes are known."""
        width = self.public.ciphertext_bytes
        if self._private is None:
            return join_numbers(map(self._table.power, exponents), width)
        primes = self._primes
        powers = [[prime.table.power(r % prime.order) for r in exponents] for prime in primes]
        return join_numbers(self._combine(*powers, squared=True), width)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + m·N)·ρ mod N²."""
        self._pair(plaintexts, randomizers, left_width=self.public.plaintext_bytes)
        N, N2, width = mpz(self.public.N), mpz(self.public.N2), self.public.ciphertext_bytes
        return join_numbers(
            [
                (1 + m * N) * rho % N2
                for m, rho in zip(
                    read_plaintexts(plaintexts, self.public),
                    split_numbers(randomizers, width),
                    strict=True,
                )
            ],
            width,
        )

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums: products modulo N²."""
        N2, width = mpz(self.public.N2), self.public.ciphertext_bytes
        self._pair(left, right, left_width=width)
        pairs = zip(split_numbers(left, width), split_numbers(right, width), strict=True)
        return join_numbers([a * b % N2 for a, b in pairs], width)

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts by Chinese remainders and short exponents.

        A ciphertext whose randomness is not a power of h, such as `phe` makes for the same N,
        shows itself, since no power 1 modulo the prime comes out, and is opened with the full
        exponent.
        """
        self._opener()
        self._count(ciphertexts, self.public.ciphertext_bytes)
        numbers = split_numbers(ciphertexts, self.public.ciphertext_bytes)
        share = max(1, -(-len(numbers) // self.threads))
        parts = [numbers[start : start + share] for start in range(0, len(numbers), share)]
        with ThreadPoolExecutor(self.threads) as pool:
            residues = [
                [m for part in pool.map(prime.decrypt, parts) for m in part]
                for prime in self._primes
            ]
        return join_numbers(self._combine(*residues, squared=False), self.public.plaintext_bytes)

    @cached_property
    def _table(self) -> _FixedBaseTable:
        N2 = mpz(self.public.N2)
        base = gmpy2.powmod(self.public.h, self.public.N, N2)
        return _FixedBaseTable(base, modulus=N2, exponent_bits=self.public.randomizer_bits)

    @cached_property
    def _primes(self) -> tuple[_Prime, _Prime]:
        key = self._opener()
        return _Prime(key.public, key.P, key.p), _Prime(key.public, key.Q, key.q)

    def _combine(self, over_P: list[mpz], over_Q: list[mpz], *, squared: bool) -> list[mpz]:
        """Numbers modulo P·Q, or modulo its square, from their residues [HAC, §14.5]."""
        key = self._opener()
        P, Q = mpz(key.P), mpz(key.Q)
        if squared:
            P, Q = P * P, Q * Q
        inverse = gmpy2.invert(Q, P)
        return [b + Q * ((a - b) * inverse % P) for a, b in zip(over_P, over_Q, strict=True)]


class _FixedBaseTable:
    """Powers of one base, ready to be multiplied."""

    def __init__(self, base: mpz, *, modulus: mpz, exponent_bits: int) -> None:
        self._modulus = modulus
        self._rows: list[list[mpz]] = []
        for _ in range(-(-exponent_bits // _WINDOW_BITS)):
            row = [mpz(1)]
            for _ in range(2**_WINDOW_BITS):
                row.append(row[-1] * base % modulus)
            base = row.pop()
            self._rows.append(row)

    def power(self, exponent: int) -> mpz:
        """base**exponent, for an exponent that has no more bits than the table was made for."""
        result, modulus = mpz(1), self._modulus
        mask = 2**_WINDOW_BITS - 1
        for row in self._rows:
            result = result * row[exponent & mask] % modulus
            exponent >>= _WINDOW_BITS
        return result


class _Prime:
    """What a holder of the private key knows about one of its two primes."""

    def __init__(self, public: PublicKey, prime: int, half_order: int) -> None:
        self._N, self._h = mpz(public.N), mpz(public.h)
        self._prime, self._square = mpz(prime), mpz(prime) ** 2
        self.order = 2 * half_order

    @cached_property
    def table(self) -> _FixedBaseTable:
        """Powers of h_N modulo the prime's square, for exponents below the order of h."""
        base = gmpy2.powmod(self._h, self._N, self._square)
        bits = self.order.bit_length()
        return _FixedBaseTable(base, modulus=self._square, exponent_bits=bits)

    def decrypt(self, ciphertexts: list[mpz]) -> list[mpz]:
        """Plaintexts modulo the prime; runs without the interpreter's lock."""
        plaintexts = self._decrypt_with(self.order, ciphertexts)
        foreign = [i for i, plaintext in enumerate(plaintexts) if plaintext is None]
        full = self._decrypt_with(self._prime - 1, [ciphertexts[i] for i in foreign])
        for i, plaintext in zip(foreign, full, strict=True):
            plaintexts[i] = plaintext
        return [plaintext for plaintext in plaintexts if plaintext is not None]

    def _decrypt_with(self, exponent: int, ciphertexts: list[mpz]) -> list[mpz | None]:
        """L(c^exponent)·L((1 + N)^exponent)^(−1), or None where the exponent does not fit c."""
        if not ciphertexts:
            return []
        prime, square = self._prime, self._square
        with gmpy2.context(allow_release_gil=True):
            reduced = [c % square for c in ciphertexts]
            powers = gmpy2.powmod_base_list(reduced, mpz(exponent), square)
        scale = gmpy2.invert(exponent * (self._N // prime), prime)
        quotients = [gmpy2.f_divmod(power - 1, prime) for power in powers]
        return [quotient * scale % prime if rest == 0 else None for quotient, rest in quotients]
