from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ppfl.codec import PackedSuite, SealedVector
from ppfl.crypto import EngineName, PrivateKey, create_engine
from ppfl.crypto.gmp import GmpEngine
from ppfl.errors import (
    InvalidKeyError,
    QuorumError,
    StaleRoundError,
    StudyMismatchError,
    ValueRangeError,
)
from ppfl.federation import xray_sums
from ppfl.federation.xray_sums import ClassSum, XRaySums
from ppfl.settings import Study

_SIZE = 6
_XRays = NDArray[np.uint8]


def _study(name: str = "s", size: int = _SIZE) -> Study:
    federation = {"sites": ["a", "b", "c"], "mean_xray_size": size, "release_floor": 5}
    return Study.model_validate({"name": name, "classes": ["x", "y"], "federation": federation})


def _suite(key: PrivateKey, *, name: EngineName = "gmp", private: bool = True) -> PackedSuite:
    engine = create_engine(key.public, key if private else None, name=name, threads=1, s=2)
    return PackedSuite(engine, value_bits=14, headroom_bits=2)


def _draw(*counts: int) -> list[_XRays]:
    rng = np.random.default_rng(sum(counts))
    return [rng.integers(0, 256, (n, _SIZE, _SIZE), dtype=np.uint8) for n in counts]


@pytest.mark.parametrize("name", ["gmp", "reference", "auto"])
def test_the_mean_is_the_mean_in_the_clear(unsafe_key: PrivateKey, name: EngineName) -> None:
    sealing = XRaySums(_study(), _suite(unsafe_key, name=name, private=False))
    opening = XRaySums(_study(), _suite(unsafe_key, name=name))
    sites = [_draw(xray_sums._BATCH + 3, 2), _draw(5, 0), _draw(1, 4)]
    total: SealedVector | None = None
    for xrays in sites:
        sealed = sealing.seal(xrays)
        wire = sealed.to_bytes()
        total = sealing.suite.add(total, sealing.suite.read(wire, values=sealing.values))
    assert total is not None
    found = opening.open(total)
    assert list(found) == ["x", "y"]
    for c, opened in enumerate(found.values()):
        everything = np.concatenate([xrays[c] for xrays in sites]).astype(float)
        assert opened.images == len(everything)
        assert opened.sites == sum(len(xrays[c]) > 0 for xrays in sites)
        assert (opened.pixels == everything.sum(axis=0)).all()
        assert (opened.mean() == np.floor(everything.mean(axis=0) + 0.5)).all()


def test_as_many_x_rays_as_all_sites_may_have_stay_in_their_slots(unsafe_key: PrivateKey) -> None:
    suite = XRaySums(_study(), _suite(unsafe_key)).suite
    checked = np.tile([255, 0], 40)
    total = suite.seal(checked)
    for _ in range(xray_sums._IMAGES_BITS + 2):  # four sites, one more than there are
        total = suite.add(total, total)
    assert total.summands == 4 * 2**xray_sums._IMAGES_BITS
    assert (suite.open(total) == checked * total.summands).all()


def test_a_site_adds_no_more_than_there_is_room_for(
    unsafe_key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xray_sums, "_IMAGES_BITS", 2)
    sums = XRaySums(_study(), _suite(unsafe_key))
    sums.seal(_draw(4, 0))
    with pytest.raises(ValueRangeError, match="more than 4 X-rays"):
        sums.seal(_draw(0, 5))


class _Watched(GmpEngine):
    """Counts the plaintexts it encrypts and the ciphertexts it adds and decrypts."""

    encrypted = added = decrypted = 0

    def decrypt(self, ciphertexts: bytes) -> bytes:
        self.decrypted += len(ciphertexts) // self.ciphertext_bytes
        return super().decrypt(ciphertexts)

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes:
        self.encrypted += self.count_plaintexts(plaintexts)
        return super().blind(plaintexts, randomizers)

    def add(self, left: bytes, right: bytes) -> bytes:
        self.added += len(left) // self.ciphertext_bytes
        return super().add(left, right)


def test_every_x_ray_is_encrypted_by_itself_and_added_without_the_private_key(
    unsafe_key: PrivateKey,
) -> None:
    engine = _Watched(unsafe_key.public, None, threads=1)
    sums = XRaySums(_study(), PackedSuite(engine, value_bits=14, headroom_bits=2))
    layout, images = sums.suite.layout, xray_sums._BATCH + 9  # type: ignore[attr-defined]
    each, tail = layout.plaintexts(_SIZE**2), layout.plaintexts(sums._tail.values)
    sealed = sums.seal(_draw(images, 0))
    assert engine.encrypted == (images + 1) * each + tail  # one vector of zeros for class y
    assert engine.added == (images - 1) * each
    with pytest.raises(InvalidKeyError):
        sums.open(sealed)


@pytest.mark.parametrize(
    ("sites", "opened"),
    [
        ([(3, 5), (2, 4)], ["x", "y"]),
        ([(3, 5), (1, 4)], ["y"]),  # fewer X-rays of x than the floor
        ([(9, 5), (0, 4)], ["y"]),  # those of x are of one site, which a drop-out may leave behind
        ([(1, 9), (1, 0)], []),
    ],
)
def test_a_sum_of_few_x_rays_or_of_one_site_is_not_even_decrypted(
    unsafe_key: PrivateKey, sites: list[tuple[int, int]], opened: list[str]
) -> None:
    engine = _Watched(unsafe_key.public, unsafe_key, threads=1)
    sums = XRaySums(_study(), PackedSuite(engine, value_bits=14, headroom_bits=2))
    layout = sums.suite.layout  # type: ignore[attr-defined]
    total: SealedVector | None = None
    for counts in sites:
        total = sums.suite.add(total, sums.seal(_draw(*counts)))
    assert total is not None
    assert list(sums.open(total)) == opened
    each, tail = layout.plaintexts(_SIZE**2), layout.plaintexts(sums._tail.values)
    assert engine.decrypted == len(opened) * each + tail


def test_how_many_x_rays_there_are_does_not_show(unsafe_key: PrivateKey) -> None:
    sums = XRaySums(_study(), _suite(unsafe_key, private=False))
    many, none = sums.seal(_draw(70, 1)), sums.seal(_draw(0, 0))
    assert many.summands == none.summands == 1
    header = len(many.to_bytes()) - len(many.parts[0])
    assert many.to_bytes()[:header] == none.to_bytes()[:header]


def test_sums_of_one_site_another_study_or_another_round_are_refused(
    unsafe_key: PrivateKey,
) -> None:
    sums = XRaySums(_study(), _suite(unsafe_key))
    own = sums.seal(_draw(3, 3))
    with pytest.raises(QuorumError, match="a total of 1 sites"):
        sums.open(own)
    other = XRaySums(_study("other"), _suite(unsafe_key)).seal(_draw(3, 3))
    with pytest.raises(StudyMismatchError):
        sums.open(sums.suite.add(own, other))
    zeros = np.zeros(2, np.int64)
    integers = {"class_images": zeros, "class_sites": zeros}
    tail = sums._tail.seal(sums.suite, round_number=1, integers=integers).vector
    empty = sums.suite.seal(np.zeros(_SIZE**2, np.int64))
    late = sums.suite.join([empty, empty, tail])
    with pytest.raises(StaleRoundError):
        sums.open(sums.suite.add(own, late))


def test_a_study_without_mean_x_rays_has_no_sums(unsafe_key: PrivateKey) -> None:
    with pytest.raises(StudyMismatchError, match="makes no mean X-rays"):
        XRaySums(_study(size=0), _suite(unsafe_key))


def test_a_sum_that_a_site_lied_about_is_still_a_picture() -> None:
    pixels = np.array([[0, 1], [5, 9999]])
    assert ClassSum(2, 2, pixels).mean().tolist() == [[0, 1], [3, 255]]
