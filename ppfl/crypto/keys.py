"""Paillier keys with a short-exponent subgroup.

[MHL21] H. Ma, S. Han, H. Lei, "Optimized Paillier's Cryptosystem with Fast Encryption and
Decryption", ACSAC 2021. [DJN10] I. Damgård, M. Jurik, J. B. Nielsen, "A Generalization of
Paillier's Public-Key System with Applications to Electronic Voting", IJIS 2010.

A key made by :func:`generate_key` [MHL21, §4]::

    P = 2·p·p' + 1        Q = 2·q·q' + 1        N = P·Q        α = p·q        β = p'·q'
    h = −y^(2β) mod N for a random y            h_N = h^N mod N²
    c = (1 + m·N) · h_N^r mod N²                with r uniform in [0, 2^l)
    m = L(c^(2α) mod N²) · (2α)^(−1) mod N      with L(x) = (x − 1) / N

This is Paillier's s = 1; the same key serves any s (:mod:`ppfl.crypto.engine`). An ordinary key,
such as one that `phe` made, is the case p' = q' = 1: nothing in it is short, so r has half of N's
bits [DJN10] and the exponents of decryption have P's and Q's full length.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd

import gmpy2

from ppfl.errors import InvalidKeyError

SUBGROUP_BITS = {2048: 448, 3072: 512, 4096: 640, 7680: 768}
"""Bits of N → bits l of the subgroup's order, four times the security level [MHL21, table 1].

4096 is not in the paper: its level lies near 152, and 640 is the next multiple of 128.
"""

_PRIME_REPETITIONS = 40  # an error below 2^-80 even for numbers chosen to deceive
_PRIMORIAL = int(gmpy2.primorial(10_000))


@dataclass(frozen=True)
class PublicKey:
    """What anyone may hold: enough to encrypt and to add.

    ``N`` is the modulus, ``h`` in [2, N) generates the randomizers, and a randomizer's exponent
    is uniform in [0, 2**randomizer_bits).
    """

    N: int
    h: int
    randomizer_bits: int

    @property
    def bits(self) -> int:
        """Bits of N."""
        return self.N.bit_length()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the key, 64 hexadecimal digits."""
        text = f"ppfl-public-key-v1\n{self.N:x}\n{self.h:x}\n{self.randomizer_bits}\n"
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def validate(self, *, unsafe_bits: bool = False) -> None:
        """Check all that can be checked without the factors.

        Raises:
            InvalidKeyError: N is too short, even, prime, a power or has a small factor; h is out
                of range or shares a factor with N; the randomizer's exponent is too short.
        """
        if not unsafe_bits and self.bits not in SUBGROUP_BITS:
            allowed = ", ".join(map(str, SUBGROUP_BITS))
            raise InvalidKeyError(f"N has {self.bits} bits; {allowed} are allowed")
        N = gmpy2.mpz(self.N)
        if self.N < 3 or gcd(self.N, _PRIMORIAL) != 1:
            raise InvalidKeyError("N has a small factor")
        if gmpy2.is_prime(N, _PRIME_REPETITIONS) or gmpy2.is_power(N):
            raise InvalidKeyError("N is a prime or a power, not a product of two primes")
        if not 2 <= self.h < self.N - 1 or gcd(self.h, self.N) != 1:
            raise InvalidKeyError("h is not an invertible number in [2, N − 1)")
        least = self.bits // 2 if unsafe_bits else SUBGROUP_BITS[self.bits]
        if not min(least, self.bits // 2) <= self.randomizer_bits <= self.bits:
            raise InvalidKeyError(
                f"randomizers of {self.randomizer_bits} bits; {least} to {self.bits} are needed"
            )


@dataclass(frozen=True)
class PrivateKey:
    """What opens sums: the primes, and the short orders of h below them.

    ``p`` divides (P − 1)/2 and ``q`` divides (Q − 1)/2; h has an order that divides 2p modulo P
    and 2q modulo Q. In an ordinary key p = (P − 1)/2 and q = (Q − 1)/2.
    """

    public: PublicKey
    P: int = field(repr=False)
    Q: int = field(repr=False)
    p: int = field(repr=False)
    q: int = field(repr=False)

    def validate(self, *, unsafe_bits: bool = False) -> None:
        """Check the key completely [MHL21, §4.1].

        Raises:
            InvalidKeyError: a prime is none, the primes do not give N, the orders do not divide
                what they must, a greatest common divisor is wrong, or h has a longer order.
        """
        self.public.validate(unsafe_bits=unsafe_bits)
        P, Q, p, q = self.P, self.Q, self.p, self.q
        if P * Q != self.public.N or P == Q:
            raise InvalidKeyError("the primes do not multiply to N")
        if not (_is_prime(P) and _is_prime(Q)):
            raise InvalidKeyError("P or Q is not a prime")
        if gcd(self.public.N, (P - 1) * (Q - 1)) != 1:
            raise InvalidKeyError("N shares a factor with (P − 1)·(Q − 1)")
        if (P - 1) % (2 * p) or (Q - 1) % (2 * q):
            raise InvalidKeyError("p or q does not divide what it must")
        if pow(self.public.h, 2 * p, P) != 1 or pow(self.public.h, 2 * q, Q) != 1:
            raise InvalidKeyError("h is not in the subgroup that p and q describe")
        cofactor_P, cofactor_Q = (P - 1) // (2 * p), (Q - 1) // (2 * q)
        if cofactor_P == cofactor_Q == 1:
            return  # an ordinary key promises nothing more
        if not (_is_prime(p) and _is_prime(q)) or p == q:
            raise InvalidKeyError("p and q are not two distinct primes")
        if p.bit_length() != q.bit_length() or 2 * p.bit_length() != self.public.randomizer_bits:
            raise InvalidKeyError("p and q do not have half the randomizer's bits")
        if gcd(P - 1, Q - 1) != 2 or gcd(p * q, cofactor_P * cofactor_Q) != 1:
            raise InvalidKeyError("P − 1 and Q − 1 share more than the factor 2")


def generate_key(bits: int = 3072) -> PrivateKey:
    """A new private key with fast encryption and decryption [MHL21, §4.1].

    Raises:
        InvalidKeyError: ``bits`` is not one of the sizes with a known security level.
    """
    if bits not in SUBGROUP_BITS:
        allowed = ", ".join(map(str, SUBGROUP_BITS))
        raise InvalidKeyError(f"keys of {bits} bits are not offered; {allowed} are")
    return _generate(bits, SUBGROUP_BITS[bits])


def generate_unsafe_key(bits: int) -> PrivateKey:
    """A private key that is too short to protect anything, for tests; ``bits`` at least 128."""
    if bits < 128:
        raise InvalidKeyError(f"keys of {bits} bits cannot be built; 128 are the least")
    return _generate(bits, bits // 8 * 4)


def ordinary_key(P: int, Q: int) -> PrivateKey:
    """A private key from two given primes, such as those of a `phe` key, without short orders.

    h = y² mod N for a random y, and r has half of N's bits [DJN10, §4.2].

    Raises:
        InvalidKeyError: the numbers are no two distinct odd primes.
    """
    if P == Q or not (_is_prime(P) and _is_prime(Q)) or 2 in (P, Q):
        raise InvalidKeyError("an ordinary key needs two distinct odd primes")
    N = P * Q
    y = 2 + secrets.randbelow(N - 3)
    public = PublicKey(N=N, h=y * y % N, randomizer_bits=N.bit_length() // 2)
    return PrivateKey(public=public, P=P, Q=Q, p=(P - 1) // 2, q=(Q - 1) // 2)


def _generate(bits: int, subgroup_bits: int) -> PrivateKey:
    while True:
        P, p, cofactor_P = _structured_prime(bits // 2, subgroup_bits // 2)
        Q, q, cofactor_Q = _structured_prime(bits // 2, subgroup_bits // 2)
        N = P * Q
        if (
            p != q
            and gcd(P - 1, Q - 1) == 2
            and gcd(p * q, cofactor_P * cofactor_Q) == 1
            and gcd(N, (P - 1) * (Q - 1)) == 1
        ):
            break
    while True:
        y = 2 + secrets.randbelow(N - 3)
        power = int(gmpy2.powmod_sec(y, 2 * cofactor_P * cofactor_Q, N))
        # y^(2β) must generate both subgroups: 1 modulo P or Q would give the factors away
        if gcd(y, N) == 1 and power % P != 1 and power % Q != 1:
            break
    public = PublicKey(N=N, h=N - power, randomizer_bits=subgroup_bits)
    return PrivateKey(public=public, P=P, Q=Q, p=p, q=q)


def _structured_prime(bits: int, order_bits: int) -> tuple[int, int, int]:
    """A prime 2·order·cofactor + 1 of exactly ``bits`` bits, its prime order, its odd cofactor.

    The two highest bits are set, so that a product of two such primes has full length.
    """
    while True:
        order = secrets.randbits(order_bits) | 1 | 3 << (order_bits - 2)
        if _is_prime(order):
            break
    lowest = (3 << (bits - 2)) // (2 * order) + 1
    highest = (1 << bits) // (2 * order)
    while True:
        cofactor = (lowest + secrets.randbelow(highest - lowest)) | 1
        prime = 2 * order * cofactor + 1
        if prime.bit_length() == bits and _is_prime(prime):
            return prime, order, cofactor


def _is_prime(number: int) -> bool:
    return bool(gmpy2.is_prime(gmpy2.mpz(number), _PRIME_REPETITIONS))
