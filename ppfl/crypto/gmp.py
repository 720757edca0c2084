"""The engine on GMP: fixed-base tables, Chinese remainders, short exponents.

h_N^r, where h_N = h^(N^s), with fixed-base tables: r = Σ d_i·2^(w·i), so h_N^r = Π T_i[d_i] with
T_i[d] = h_N^(d·2^(w·i)): one multiplication per digit of w bits and no squaring [HAC, §14.6.3]. A
holder of the primes does this modulo P^(s+1) and Q^(s+1), where h_N has order 2p and 2q: r is drawn
once and reduced modulo both, because two independent draws would let the signs of h's roots differ
and mark such ciphertexts by their Jacobi symbol.

Opening raises to 2p modulo P^(s+1), which leaves (1 + N)^(2p·m), of which the logarithm is taken.

[HAC] A. Menezes, P. van Oorschot, S. Vanstone, "Handbook of Applied Cryptography", 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ClassVar

import gmpy2
from gmpy2 import mpz

from ppfl.crypto.engine import Engine, join_numbers, split_numbers
from ppfl.crypto.keys import PublicKey
from ppfl.crypto.series import evaluate, opening_series, power_series

_WINDOW_BITS = 10  # 11 MB of table for each prime of a 3072-bit key, built in 0.1 s


class GmpEngine(Engine):
    """The scheme by gmpy2; decryption runs on all cores."""

    name: ClassVar[str] = "gmp"

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        """h_N^r by fixed-base tables, modulo P^(s+1) and Q^(s+1) where the primes are known."""
        width = self.ciphertext_bytes
        if self._private is None:
            return join_numbers(map(self._table.power, exponents), width)
        primes = self._primes
        powers = [[prime.table.power(r % prime.order) for r in exponents] for prime in primes]
        return join_numbers(self._combine(*powers, exponent=self.s + 1), width)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        """(1 + N)^m·ρ mod N^(s+1)."""
        self._pair(plaintexts, randomizers, left_width=self.plaintext_bytes)
        N, width = mpz(self.public.N), self.ciphertext_bytes
        below, modulus = mpz(self.plaintext_modulus), mpz(self.ciphertext_modulus)
        return join_numbers(
            [
                (1 + N * evaluate(self._series, m, below)) * rho % modulus
                for m, rho in zip(
                    self._read_plaintexts(plaintexts),
                    split_numbers(randomizers, width),
                    strict=True,
                )
            ],
            width,
        )

    def add(self, left: bytes, right: bytes) -> bytes:
        """Ciphertexts of the sums: products modulo N^(s+1)."""
        modulus, width = mpz(self.ciphertext_modulus), self.ciphertext_bytes
        self._pair(left, right, left_width=width)
        pairs = zip(split_numbers(left, width), split_numbers(right, width), strict=True)
        return join_numbers([a * b % modulus for a, b in pairs], width)

    def decrypt(self, ciphertexts: bytes) -> bytes:
        """Plaintexts by Chinese remainders and short exponents.

        A ciphertext whose randomness is not a power of h, such as `phe` makes for the same N,
        shows itself, since no power 1 modulo the prime comes out, and is opened with the full
        exponent.
        """
        self._opener()
        self._count(ciphertexts, self.ciphertext_bytes)
        numbers = split_numbers(ciphertexts, self.ciphertext_bytes)
        share = max(1, -(-len(numbers) // self.threads))
        parts = [numbers[start : start + share] for start in range(0, len(numbers), share)]
        with ThreadPoolExecutor(self.threads) as pool:
            residues = [
                [m for part in pool.map(prime.decrypt, parts) for m in part]
                for prime in self._primes
            ]
        return join_numbers(self._combine(*residues, exponent=self.s), self.plaintext_bytes)

    @cached_property
    def _series(self) -> list[mpz]:
        return power_series(self.public.N, s=self.s)

    @cached_property
    def _table(self) -> _FixedBaseTable:
        modulus = mpz(self.ciphertext_modulus)
        base = gmpy2.powmod(self.public.h, self.plaintext_modulus, modulus)
        return _FixedBaseTable(base, modulus=modulus, exponent_bits=self.public.randomizer_bits)

    @cached_property
    def _primes(self) -> tuple[_Prime, _Prime]:
        key = self._opener()
        return (
            _Prime(key.public, key.P, key.p, s=self.s),
            _Prime(key.public, key.Q, key.q, s=self.s),
        )

    def _combine(self, over_P: list[mpz], over_Q: list[mpz], *, exponent: int) -> list[mpz]:
        """Numbers modulo a power of P·Q from their residues [HAC, §14.5]."""
        key = self._opener()
        P, Q = mpz(key.P) ** exponent, mpz(key.Q) ** exponent
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

    def __init__(self, public: PublicKey, prime: int, half_order: int, *, s: int) -> None:
        self._public, self._s = public, s
        self._prime, self._modulus = mpz(prime), mpz(prime) ** (s + 1)
        self.order = 2 * half_order

    @cached_property
    def table(self) -> _FixedBaseTable:
        """Powers of h_N modulo prime^(s+1), for exponents below the order of h."""
        base = gmpy2.powmod(self._public.h, mpz(self._public.N) ** self._s, self._modulus)
        bits = self.order.bit_length()
        return _FixedBaseTable(base, modulus=self._modulus, exponent_bits=bits)

    def decrypt(self, ciphertexts: list[mpz]) -> list[mpz]:
        """Plaintexts modulo prime^s; raises to powers without the interpreter's lock."""
        plaintexts = self._decrypt_with(self.order, ciphertexts)
        foreign = [i for i, plaintext in enumerate(plaintexts) if plaintext is None]
        full = self._decrypt_with(int(self._prime) - 1, [ciphertexts[i] for i in foreign])
        for i, plaintext in zip(foreign, full, strict=True):
            plaintexts[i] = plaintext
        return [plaintext for plaintext in plaintexts if plaintext is not None]

    def _decrypt_with(self, exponent: int, ciphertexts: list[mpz]) -> list[mpz | None]:
        """The plaintexts, or None where c^exponent is no power of 1 + N."""
        if not ciphertexts:
            return []
        prime, modulus = self._prime, self._modulus
        with gmpy2.context(allow_release_gil=True):
            reduced = [c % modulus for c in ciphertexts]
            powers = gmpy2.powmod_base_list(reduced, mpz(exponent), modulus)
        series = opening_series(self._public.N, prime=int(prime), exponent=exponent, s=self._s)
        below = prime**self._s
        quotients = [gmpy2.f_divmod(power - 1, prime) for power in powers]
        return [evaluate(series, x, below) if rest == 0 else None for x, rest in quotients]
