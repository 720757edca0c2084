"""Paillier and Damgård–Jurik: keys, key files, and arithmetic on vectors of ciphertexts."""

from ppfl.crypto.engine import Engine
from ppfl.crypto.engines import EngineChoice, EngineName, choose_engine, create_engine
from ppfl.crypto.keyfiles import (
    read_private_key,
    read_public_key,
    write_private_key,
    write_public_key,
)
from ppfl.crypto.keys import PrivateKey, PublicKey, generate_key, generate_unsafe_key
from ppfl.crypto.pool import RandomizerPool

__all__ = [
    "Engine",
    "EngineChoice",
    "EngineName",
    "PrivateKey",
    "PublicKey",
    "RandomizerPool",
    "choose_engine",
    "create_engine",
    "generate_key",
    "generate_unsafe_key",
    "read_private_key",
    "read_public_key",
    "write_private_key",
    "write_public_key",
]
