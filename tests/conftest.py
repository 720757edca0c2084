from __future__ import annotations

import pytest

from ppfl.crypto import PrivateKey, generate_key, generate_unsafe_key


@pytest.fixture(scope="session")
def unsafe_key() -> PrivateKey:
    return generate_unsafe_key(256)


@pytest.fixture(scope="session")
def full_key() -> PrivateKey:
    return generate_key(3072)
