"""(1 + N)^m and its logarithm as polynomials, so that both are a few products.

Modulo N^(s+1) the powers of 1 + N are 1 + N·x with x modulo N^s, and N-adic series for exp and log
end after s terms, since each brings one more factor N::

    log(1 + N)  = N·λ                   λ = 1 − N/2 + N²/3
    (1 + N)^m   = exp(m·N·λ)            = 1 + N·(λ·m + N·(λ·m)²/2 + N²·(λ·m)³/6)
    log(1 + P·x)                        = P·(x − P·x²/2 + P²·x³/3)

It is the binomial theorem and the algorithm of [DJ01, §3] for its inverse, summed up beforehand.
Divisors are at most s, so that they have inverses.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

from gmpy2 import invert, mpz


def power_series(N: int, *, s: int) -> list[mpz]:
    """c_1 to c_s with (1 + N)^m = 1 + N·(c_1·m + … + c_s·m^s) modulo N^(s+1)."""
    modulus = mpz(N) ** s
    rate = evaluate(_logarithm(N, s), mpz(1), modulus)
    return [
        rate**k * mpz(N) ** (k - 1) * invert(factorial(k), modulus) % modulus
        for k in range(1, s + 1)
    ]


def opening_series(N: int, *, prime: int, exponent: int, s: int) -> list[mpz]:
    """c_1 to c_s: m = c_1·x + … + c_s·x^s modulo prime^s where (1 + N)^(exponent·m) = 1 + prime·x.

    ``prime`` divides N and does not divide ``exponent``; x is modulo prime^s.
    """
    modulus = mpz(prime) ** s
    logarithm = _logarithm(prime, s)
    of_base = evaluate(logarithm, mpz(N // prime), modulus)
    scale = invert(exponent * of_base, modulus)
    return [coefficient * scale % modulus for coefficient in logarithm]


def evaluate(series: Sequence[mpz], x: mpz, modulus: mpz) -> mpz:
    """c_1·x + … + c_s·x^s, by Horner's rule."""
    total = mpz(0)
    for coefficient in reversed(series):
        total = (total + coefficient) * x % modulus
    return total


def _logarithm(prime: int, s: int) -> list[mpz]:
    """c_1 to c_s with log(1 + prime·x) = prime·(c_1·x + … + c_s·x^s) modulo prime^(s+1)."""
    modulus = mpz(prime) ** s
    return [(-mpz(prime)) ** (k - 1) * invert(k, modulus) % modulus for k in range(1, s + 1)]
