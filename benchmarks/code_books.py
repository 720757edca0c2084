"""How well the three bytes of row (c) of ``ppfl reproduce`` follow the grey level, by luck of ρ.

python benchmarks/code_books.py
"""

from __future__ import annotations

import argparse

import numpy as np

from ppfl.crypto import create_engine, generate_key
from ppfl.xray.cipher_images import CHANNELS, LEVELS, CodeBook

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Measure and print a table in Markdown: quantiles over code books, of one new key."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--books", type=int, default=200)
    engine = create_engine(generate_key().public)
    greys = np.arange(LEVELS)
    found = []
    for number in range(parser.parse_args().books):
        book = CodeBook.with_fixed_randomness(engine, number.to_bytes(4, "big"))
        shown = book.correlated_bytes(greys.astype(np.uint8).reshape(1, 16, 16))
        channels = shown.reshape(LEVELS, CHANNELS).T
        found.append([abs(np.corrcoef(greys, channel)[0, 1]) for channel in channels])
    print("| channel | " + " | ".join(f"{quantile:.0%}" for quantile in _QUANTILES) + " |")
    print("|---|" + "--:|" * len(_QUANTILES))
    for channel, values in enumerate(np.quantile(np.array(found), _QUANTILES, axis=0).T, start=1):
        print(f"| {channel} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
