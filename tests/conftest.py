from __future__ import annotations

import pytest
import torch

from ppfl.crypto import PrivateKey, generate_key, generate_unsafe_key

# Networks are small here, and threads that wait for each other on a busy machine cost the most.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def unsafe_key() -> PrivateKey:
    return generate_unsafe_key(256)


@pytest.fixture(scope="session")
def full_key() -> PrivateKey:
    return generate_key(3072)
