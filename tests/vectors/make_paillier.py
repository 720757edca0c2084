"""Makes paillier.json: known answers by the papers' equations and Python's integers alone.

    python tests/vectors/make_paillier.py > tests/vectors/paillier.json

The keys are new each time, and for tests only: this file tells their factors.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from ppfl.crypto import PrivateKey, generate_key

_BITS_AND_S = ((2048, 1), (2048, 2), (2048, 3), (3072, 1))


def main() -> None:
    """Write the vectors to standard output."""
    draw = random.Random(2203)  # noqa: S311 - which plaintexts and exponents are tested
    vectors = [_vectors(generate_key(bits), s, draw) for bits, s in _BITS_AND_S]
    json.dump(vectors, sys.stdout, indent=1)
    print()


def _vectors(key: PrivateKey, s: int, draw: random.Random) -> dict[str, Any]:
    N, h, bits = key.public.N, key.public.h, key.public.randomizer_bits
    exponents = [0, 1, 2**bits - 1, draw.getrandbits(bits)]
    below, modulus = N**s, N ** (s + 1)  # of plaintexts, of ciphertexts
    plaintexts = [below - 1, 0, 1, draw.randrange(below)]
    rhos = [pow(pow(h, below, modulus), r, modulus) for r in exponents]
    ciphertexts = [
        pow(1 + N, m, modulus) * rho % modulus for m, rho in zip(plaintexts, rhos, strict=True)
    ]
    total = 1
    for ciphertext in ciphertexts:
        total = total * ciphertext % modulus
    # randomness that is no power of h, as phe draws it
    foreign = pow(1 + N, 7, modulus) * pow(draw.randrange(2, N), below, modulus) % modulus
    return {
        "s": s,
        "key": {"P": hex(key.P), "Q": hex(key.Q), "p": hex(key.p), "q": hex(key.q), "h": hex(h)},
        "randomizer_bits": bits,
        "exponents": [hex(r) for r in exponents],
        "randomizers": [hex(rho) for rho in rhos],
        "plaintexts": [hex(m) for m in plaintexts],
        "ciphertexts": [hex(c) for c in ciphertexts],
        "total": {"ciphertext": hex(total), "plaintext": hex(sum(plaintexts) % below)},
        "foreign": {"ciphertext": hex(foreign), "opens": 7},
        "refused": [
            {"number": hex(0), "expect": "is not in"},
            {"number": hex(modulus), "expect": "is not in"},
            {"number": hex(N), "expect": "shares a factor"},
            {"number": hex(3 * key.P), "expect": "shares a factor"},
            {"number": hex(key.Q**2), "expect": "shares a factor"},
        ],
    }


if __name__ == "__main__":
    main()
