from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from ppfl.crypto import PrivateKey, generate_key, generate_unsafe_key, keyfiles
from tests.deployed import Deployed, deploy

# Networks are small here, and threads that wait for each other on a busy machine cost the most.
torch.set_num_threads(1)
threadpool_limits(1, user_api="blas")  # numpy's
# That a machine is slow, or busy, is no error.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite, and none where only some tests are named."""
    whole = config.args_source is config.ArgsSource.TESTPATHS
    return min(os.cpu_count() or 1, 2) if whole else 0


@pytest.fixture(scope="session", autouse=True)
def _cheap_guesses() -> Iterator[None]:
    """A guess of a passphrase takes half a second, and so does each key file that a test uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyfiles, "_SCRYPT_LOG_N", 8)
        yield


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
