"""Makes golden.xray: a vault file as version 1 wrote it, under the first key of paillier.json.

    python tests/vectors/make_vault.py > tests/vectors/golden.xray

It stays as it is for as long as files of version 1 must be opened.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ppfl.crypto import PrivateKey, PublicKey
from ppfl.xray.vault_file import VaultImage, VaultKey, seal_image


def golden_image() -> VaultImage:
    """What is in the file: 31 by 29 pixels of 11 bits, each row brighter than the one above."""
    pixels = np.arange(31 * 29, dtype=np.uint16).reshape(31, 29) * 2
    return VaultImage(pixels, 11, "Viral_Pneumonia", "patient ü")


def golden_key() -> PrivateKey:
    """The key that opens it, of 2048 bits."""
    vectors = json.loads((Path(__file__).parent / "paillier.json").read_text())[0]
    key = {name: int(number, 16) for name, number in vectors["key"].items()}
    public = PublicKey(key["P"] * key["Q"], key.pop("h"), vectors["randomizer_bits"])
    return PrivateKey(public, **key)


if __name__ == "__main__":
    sys.stdout.buffer.write(seal_image(golden_image(), VaultKey(golden_key().public)))
