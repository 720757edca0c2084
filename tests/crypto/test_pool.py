from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from ppfl.codec import PackedSuite
from ppfl.crypto import Engine, PrivateKey, RandomizerPool, create_engine
from ppfl.crypto.gmp import GmpEngine


class _Recorded(GmpEngine):
    """An engine that keeps every exponent it was given."""

    releases_lock = True

    def __init__(self, key: PrivateKey) -> None:
        super().__init__(key.public, key, threads=1)
        self.exponents: list[int] = []
        self.niceness: set[int] = set()

    def randomizers(self, exponents: Sequence[int]) -> bytes:
        self.niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.exponents.extend(exponents)
        return super().randomizers(exponents)


def _fill(pool: RandomizerPool, count: int) -> None:
    with pool.filling(count) as full:
        assert full.wait(20)


def test_each_randomizer_is_handed_out_once(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    pool, width = RandomizerPool(engine), engine.ciphertext_bytes
    _fill(pool, 50)
    taken = b"".join(pool.take(count) for count in (0, 20, 7, 40))
    rows = [taken[i : i + width] for i in range(0, len(taken), width)]
    assert len(rows) == len(set(rows)) == 67
    assert len(engine.exponents) == 67  # none was made in vain
    assert pool.seconds > 0
    # in the order in which they were made, by any engine
    assert taken == GmpEngine.randomizers(engine, engine.exponents)


def test_training_goes_first(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    _fill(RandomizerPool(engine), 5)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert engine.niceness == {min(own + 10, 19)}


def test_no_more_wait_than_were_asked_for(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    pool = RandomizerPool(engine)
    for _ in range(3):
        _fill(pool, 30)
    assert len(engine.exponents) == 30
    assert "randomizers" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_with_its_block_even_when_training_fails(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    with pytest.raises(RuntimeError, match="training"), RandomizerPool(engine).filling(10**7):
        raise RuntimeError("training failed")
    made = len(engine.exponents)
    time.sleep(0.05)
    assert len(engine.exponents) == made < 10**5


def test_an_engine_that_holds_the_lock_makes_nothing_ahead(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    engine.releases_lock = False  # type: ignore[misc]
    pool = RandomizerPool(engine)
    with pool.filling(5) as full:
        assert full.wait(0)
    assert not engine.exponents
    assert len(pool.take(5)) == 5 * engine.ciphertext_bytes


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_use_the_same_again(unsafe_key: PrivateKey) -> None:
    engine = _Recorded(unsafe_key)
    pool = RandomizerPool(engine)
    _fill(pool, 20)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, pool.take(20))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1 << 16) != pool.take(20)


def test_a_suite_seals_with_what_was_made_ahead(unsafe_key: PrivateKey) -> None:
    engine: Engine = create_engine(unsafe_key.public, unsafe_key)
    suite = PackedSuite(engine, value_bits=16, headroom_bits=1)
    values = np.random.default_rng(3).integers(0, 2**16, 3000)
    with suite.preparing(values.size) as ready:
        assert ready.wait(20)
    first, second = suite.seal(values), suite.seal(values)
    assert first.parts != second.parts
    assert (suite.open(first) == values).all()
    assert (suite.open(second) == values).all()
