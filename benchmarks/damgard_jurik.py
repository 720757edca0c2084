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
from collections.abc import Callable, Iterator

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
        engines = [
            create_engine(key.public, key, name=name, threads=options.threads, s=s)
            for s in _EVERY_S
        ]
        counts = [options.ciphertexts // s for s in _EVERY_S]
        for row in _rows(engines, counts, options.runs):
            print(row, flush=True)


def _rows(engines: list[Engine], counts: list[int], runs: int) -> Iterator[str]:
    vectors = [_Vector(engine, count) for engine, count in zip(engines, counts, strict=True)]
    # in turn, so that whatever else the machine does hits every s alike
    seconds = [[vector.seconds() for vector in vectors] for _ in range(runs)]
    first: list[float] = []
    for which, vector in enumerate(vectors):
        columns = zip(*(run[which] for run in seconds), strict=True)
        figures = [1e9 * statistics.median(column) / vector.bits for column in columns]
        figures.append(len(vector.ciphertexts) / vector.bits)
        first = first or figures
        cells = [f"{x:.3g} ({x / one:.2f})" for x, one in zip(figures, first, strict=True)]
        engine = vector.engine
        width = 8 * engine.ciphertext_bytes
        yield f"| {engine.name} | {engine.s} | {width} | {' | '.join(cells)} |"


class _Vector:
    """Random plaintexts, sealed."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine = engine
        self.bits = count * engine.plaintext_bits
        self._plaintexts = b"".join(
            secrets.randbelow(engine.plaintext_modulus).to_bytes(engine.plaintext_bytes, "little")
            for _ in range(count)
        )
        self.ciphertexts = engine.encrypt(self._plaintexts)  # builds the tables, too
        if engine.decrypt(self.ciphertexts) != self._plaintexts:
            raise SystemExit(f"engine {engine.name}, s = {engine.s}: it did not come back")

    def seconds(self) -> tuple[float, float, float]:
        """To seal, to add and to open all of it."""
        engine, ciphertexts = self.engine, self.ciphertexts
        return (
            _time(lambda: engine.encrypt(self._plaintexts)),
            _time(lambda: engine.add(ciphertexts, ciphertexts)),
            _time(lambda: engine.decrypt(ciphertexts)),
        )


def _time(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
