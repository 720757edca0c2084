from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ppfl.crypto import PrivateKey, generate_key, generate_unsafe_key
from tests.deployed import Deployed, deploy

# Networks are small here, and threads that wait for each other on a busy machine cost the most.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def unsafe_key() -> PrivateKey:
    return generate_unsafe_key(256)


@pytest.fixture(scope="session")
def full_key() -> PrivateKey:
    return generate_key(3072)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, full_key: PrivateKey) -> Deployed:
    return deploy(tmp_path_factory.mktemp("federation"), full_key)


@pytest.fixture
def deployed(federation: Deployed, tmp_path: Path) -> Deployed:
    """A federation of the test's own, to break."""
    shutil.copytree(federation.root, tmp_path / "federation")
    return Deployed(tmp_path / "federation")
