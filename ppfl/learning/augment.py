"""Small changes to training images that leave their class as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_TURN = math.radians(7)
_SHIFT = 0.05
_ZOOM = 0.07
_CONTRAST = 0.1
_BRIGHTNESS = 0.1


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """The images, each turned, shifted, zoomed and changed in contrast at random.

    ``batch`` and result are (n, 1, h, w) float32 in [0, 1], on one device; ``generator`` is the
    processor's, so that the draws are the same on all. Turns reach 7 degrees, shifts 5 % of a
    side, zooms 7 %, contrast and brightness 10 %. What comes in at an edge repeats the edge.

    Of cipher images, (n, 3, h, w), whole pixels are moved and nothing else is done: between two
    ciphertexts there is nothing.

    Never mirrored: upside down no radiograph is taken, and left to right a mirrored chest shows
    the heart on the wrong side, a finding of its own (situs inversus) which the network would
    learn to ignore, together with every other difference between the sides.
    """
    count, channels, height, width = batch.shape
    draws = torch.rand(6, count, generator=generator).to(batch.device) * 2 - 1
    angle, zoom = draws[0] * _TURN, 1 + draws[1] * _ZOOM
    right, down = draws[2] * 2 * _SHIFT, draws[3] * 2 * _SHIFT  # the grid is 2 wide and 2 high
    contrast, brightness = 1 + draws[4] * _CONTRAST, draws[5] * _BRIGHTNESS
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    aspect = height / width
    rows = (cosine, -sine * aspect, right, sine / aspect, cosine, down)
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).view(count, 2, 3), list(batch.shape), align_corners=False
    )
    moved = functional.grid_sample(
        batch,
        grid,
        mode="bilinear" if channels == 1 else "nearest",
        padding_mode="border",
        align_corners=False,
    )
    if channels > 1:
        return moved
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    per_image = (-1, 1, 1, 1)
    changed = (moved - mean) * contrast.view(per_image) + mean + brightness.view(per_image)
    return changed.clamp(0, 1)
