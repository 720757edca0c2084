"""What a bit of plaintext costs for s = 1, 2 and 3, in time and in bytes, under one key.

    python benchmarks/damgard_jurik.py                   # about a minute on two cores
    python benchmarks/damgard_jurik.py --engines gmp --runs 5

Prints a table in Markdown, medians of the runs. All rows carry the same plaintext; in brackets the
ratio to s = 1 of the same engine.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from collections.abc import Callable

from ppfl.crypto import Engine, create_engine, generate_key

_EVERY_S = (1, 2, 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="+", default=["native", "gmp"])
    parser.add_argument("--bits", type=int, default=3072, help="of the key")
    parser.add_argument("--ciphertexts", type=int, default=3072, help="at s = 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    key = generate_key(options.bits)
    print(
        f"{options.bits}-bit key, {options.threads} threads, medians of {options.runs}; ns "
        "and bytes for a bit of plaintext\n"
    )
    print("| engine | s | ciphertext, bits | seal | add | open | bytes |")
    print("|---|---|---|---|---|---|---|")
    for name in options.engines:
        first: list[float] = []
        for s in _EVERY_S:
            engine = create_engine(key.public, key, name=name, threads=options.threads, s=s)
            figures = _measure(engine, options.ciphertexts // s, options.runs)
            first = first or figures
            cells = [f"{x:.4g} ({x / one:.2f})" for x, one in zip(figures, first, strict=True)]
            print(
                f"| {name} | {s} | {8 * engine.ciphertext_bytes} | {' | '.join(cells)} |",
                flush=True,
            )


def _measure(engine: Engine, count: int, runs: int) -> list[float]:
    """Nanoseconds to seal, add and open, and bytes, for a bit of plaintext."""
    plaintexts = b"".join(
        secrets.randbelow(engine.plaintext_modulus).to_bytes(engine.plaintext_bytes, "little")
        for _ in range(count)
    )
    ciphertexts = engine.encrypt(plaintexts)
    if engine.decrypt(ciphertexts) != plaintexts:  # builds the tables, too
        raise SystemExit(f"engine {engine.name}, s = {engine.s}: the plaintexts did not come back")
    bits = count * engine.plaintext_bits
    seconds = (
        _median(runs, lambda: engine.encrypt(plaintexts)),
        _median(runs, lambda: engine.add(ciphertexts, ciphertexts)),
        _median(runs, lambda: engine.decrypt(ciphertexts)),
    )
    return [*(1e9 * second / bits for second in seconds), len(ciphertexts) / bits]


def _median(runs: int, act: Callable[[], object]) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
