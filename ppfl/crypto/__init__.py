"""Paillier: keys, key files, and arithmetic on vectors of ciphertexts."""

import os
from typing import Literal

from ppfl.crypto.engine import Engine
from ppfl.crypto.gmp import GmpEngine
from ppfl.crypto.keyfiles import (
    read_private_key,
    read_public_key,
    write_private_key,
    write_public_key,
)
from ppfl.crypto.keys import PrivateKey, PublicKey, generate_key, generate_unsafe_key
from ppfl.crypto.reference import ReferenceEngine

EngineName = Literal["gmp", "reference"]


def create_engine(
    public: PublicKey,
    private: PrivateKey | None = None,
    *,
    name: EngineName = "gmp",
    threads: int | None = None,
) -> Engine:
    """An engine for a key; ``threads`` defaults to the cores this process may use.

    Raises:
        InvalidKeyError: the private key does not belong to the public one.
    """
    kind = ReferenceEngine if name == "reference" else GmpEngine
    return kind(public, private, threads=threads or len(os.sched_getaffinity(0)))


__all__ = [
    "Engine",
    "EngineName",
    "PrivateKey",
    "PublicKey",
    "create_engine",
    "generate_key",
    "generate_unsafe_key",
    "read_private_key",
    "read_public_key",
    "write_private_key",
    "write_public_key",
]
