"""Vectors of numbers, and ciphertexts that others made, for the tests of engines."""

from __future__ import annotations

import secrets

from ppfl.crypto import Engine


def vector(numbers: list[int], width: int) -> bytes:
    return b"".join(number.to_bytes(width, "little") for number in numbers)


def foreign(engine: Engine, plaintexts: list[int]) -> bytes:
    """Ciphertexts whose randomness is no power of h, straight from the paper."""
    N, s, modulus = engine.public.N, engine.s, engine.ciphertext_modulus
    numbers = [
        pow(1 + N, m, modulus) * pow(secrets.randbelow(N - 1) + 1, N**s, modulus) % modulus
        for m in plaintexts
    ]
    return vector(numbers, engine.ciphertext_bytes)
