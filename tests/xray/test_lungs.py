from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppfl.xray.lungs import LOOK_SIZE, masks_from_cut_outs
from ppfl.xray.phantoms import draw_phantom


def _phantoms(count: int) -> NDArray[np.uint8]:
    return np.stack(
        [
            draw_phantom("Normal", size=LOOK_SIZE, generator=np.random.default_rng(i))
            for i in range(count)
        ]
    )


def _lungs() -> NDArray[np.bool_]:
    y, x = np.mgrid[:LOOK_SIZE, :LOOK_SIZE] / LOOK_SIZE
    return np.asarray((np.abs(x - 0.5) > 0.06) & (np.abs(x - 0.5) < 0.35) & (np.abs(y - 0.5) < 0.3))


def _as_jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=75)
    return np.asarray(Image.open(file))


def test_cut_outs_are_found_by_their_grey_levels() -> None:
    xrays, lungs = _phantoms(6), _lungs()
    darker = (40 + xrays[4] * 0.6).astype(np.uint8)
    copies = [255 - xrays[2], darker, xrays[1]]
    cut_outs = np.stack([_as_jpeg(np.where(lungs, copy, np.uint8(0))) for copy in copies])
    masks = masks_from_cut_outs(xrays, cut_outs)
    assert masks.any(axis=(1, 2)).tolist() == [False, True, True, False, True, False]
    for i in (1, 2, 4):
        both, either = (masks[i] & lungs).sum(), (masks[i] | lungs).sum()
        assert both / either > 0.95


def test_what_is_too_small_or_flat_is_nobodys_cut_out() -> None:
    xrays = _phantoms(2)
    small = np.zeros_like(xrays[:1])
    small[0, 100:130, 100:130] = xrays[0, 100:130, 100:130]
    flat = np.full_like(small, 128)
    for cut_outs in (small, flat, small[:0]):
        assert not masks_from_cut_outs(xrays, cut_outs).any()
