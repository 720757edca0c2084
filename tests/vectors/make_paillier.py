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

_BITS = (2048, 3072)


def main() -> None:
    """Write the vectors to standard output."""
    draw = random.Random(2203)  # noqa: S311 - which plaintexts and exponents are tested
    json.dump([_vectors(generate_key(bits), draw) for bits in _BITS], sys.stdout, indent=1)
    print()


def _vectors(key: PrivateKey, draw: random.Random) -> dict[str, Any]:
    N, h, bits = key.public.N, key.public.h, key.public.randomizer_bits
    exponents = [0, 1, 2**bits - 1, draw.getrandbits(bits)]
    plaintexts = [N - 1, 0, 1, draw.randrange(N)]
    rhos = [pow(pow(h, N, N * N), r, N * N) for r in exponents]
    ciphertexts = [
        pow(1 + N, m, N * N) * rho % (N * N) for m, rho in zip(plaintexts, rhos, strict=True)
    ]
    total = 1
    for ciphertext in ciphertexts:
        total = total * ciphertext % (N * N)
    foreign = draw.randrange(2, N)  # randomness that is no power of h: y^N, as phe draws it
    return {
        "key": {"P": hex(key.P), "Q": hex(key.Q), "p": hex(key.p), "q": hex(key.q), "h": hex(h)},
        "randomizer_bits": bits,
        "exponents": [hex(r) for r in exponents],
        "randomizers": [hex(rho) for rho in rhos],
        "plaintexts": [hex(m) for m in plaintexts],
        "ciphertexts": [hex(c) for c in ciphertexts],
        "total": {"ciphertext": hex(total), "plaintext": hex(sum(plaintexts) % N)},
        "foreign": {"ciphertext": hex((1 + 7 * N) * pow(foreign, N, N * N) % (N * N)), "opens": 7},
        "refused": [
            {"number": hex(0), "expect": "is not in"},
            {"number": hex(N * N), "expect": "is not in"},
            {"number": hex(N), "expect": "shares a factor"},
            {"number": hex(3 * key.P), "expect": "shares a factor"},
            {"number": hex(key.Q**2), "expect": "shares a factor"},
        ],
    }


if __name__ == "__main__":
    main()
