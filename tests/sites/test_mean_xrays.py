from __future__ import annotations

import base64

import numpy as np
import pytest

from ppfl.errors import SettingsError
from ppfl.federation import Opened
from ppfl.federation.xray_sums import ClassSum
from ppfl.learning.images import ImageSet
from ppfl.settings import Study, check_settings
from sites.mean_xrays import classes_held, means_to_release, xrays_to_add


def _study(**federation: int) -> Study:
    table = {"sites": ["a", "b", "c"], "release_floor": 5, "mean_xray_size": 4} | federation
    study = {"name": "s", "classes": ["x", "y", "z"], "federation": table}
    return check_settings(study, Study, where="study")


_LABELS = np.repeat([0, 1, 2], [5, 4, 6])


def test_a_class_with_few_images_is_not_held() -> None:
    assert classes_held(_study(), _LABELS).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("minimum", "added"), [(2, [5, 0, 6]), (3, [5, 0, 0])])
def test_a_site_adds_only_where_enough_images_and_sites_are(minimum: int, added: list[int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (len(_LABELS), 8, 8), dtype=np.uint8)
    enrolled = Opened(sites=3, parameters={}, integers={"class_sites": np.array([3, 2, 2])})
    steps: list[tuple[int, int]] = []
    xrays = xrays_to_add(
        _study(minimum_sites=minimum),
        ImageSet(pixels, _LABELS),
        enrolled,
        lambda done, of: steps.append((done, of)),
    )
    taken = [list(pictures) for pictures in xrays]
    assert [len(pictures) for pictures in taken] == added
    assert {picture.shape for pictures in taken for picture in pictures} == {(4, 4)}
    assert steps == [(done, sum(added)) for done in range(1, sum(added) + 1)]


def test_a_mean_is_released_as_its_pixels() -> None:
    released = means_to_release({"x": ClassSum(2, 5, np.full((4, 4), 50))})
    assert {name: base64.b64decode(text) for name, text in released.items()} == {"x": b"\x0a" * 16}


def test_a_mean_needs_a_floor_and_is_no_larger_than_the_images() -> None:
    with pytest.raises(SettingsError, match="a release_floor of at least 5"):
        _study(release_floor=4)
    assert _study(mean_xray_size=256).mean_xray_size == 128
