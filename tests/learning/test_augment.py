from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppfl.learning.augment import augment


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spot(row: int, column: int, *, count: int, height: int = 100, width: int = 100) -> Tensor:
    """A soft bright spot on a dark ground: where it goes, the image goes."""
    y = torch.arange(height).view(-1, 1) - row
    x = torch.arange(width).view(1, -1) - column
    image = 0.2 + 0.6 * torch.exp(-(x**2 + y**2) / 32.0)
    return image.expand(count, 1, height, width).clone()


def centres(batch: Tensor) -> Tensor:
    """Row and column of the brightest place of each image, (n, 2), weighted by brightness."""
    height, width = batch.shape[2:]
    light = (batch - batch.amin(dim=(2, 3), keepdim=True)).squeeze(1) ** 4
    light = light / light.sum(dim=(1, 2), keepdim=True)
    rows = (light.sum(2) * torch.arange(height)).sum(1)
    columns = (light.sum(1) * torch.arange(width)).sum(1)
    return torch.stack([rows, columns], dim=1)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_shape_and_range_are_kept(count: int, height: int, width: int, seed: int) -> None:
    batch = torch.rand(count, 1, height, width, generator=generator(seed))
    result = augment(batch, generator(seed))
    assert result.shape == batch.shape
    assert result.dtype == torch.float32
    assert bool(((result >= 0) & (result <= 1)).all())


def test_the_generator_decides_and_the_input_is_left() -> None:
    batch = torch.rand(4, 1, 32, 32, generator=generator())
    before = batch.clone()
    state = torch.get_rng_state()
    first = augment(batch, generator(3))
    assert torch.equal(first, augment(batch, generator(3)))
    assert not torch.equal(first, augment(batch, generator(4)))
    assert torch.equal(batch, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_image_is_changed_on_its_own() -> None:
    result = augment(spot(30, 60, count=8), generator())
    assert len({image.numpy().tobytes() for image in result}) == 8


@pytest.mark.parametrize(("height", "width"), [(100, 100), (100, 160)])
def test_shifts_turns_and_zooms_stay_small_and_are_used(height: int, width: int) -> None:
    middle = augment(
        spot(height // 2, width // 2, count=400, height=height, width=width), generator()
    )
    moved = (centres(middle) - torch.tensor([height // 2, width // 2])).abs()
    bound = torch.tensor([height, width]) * 0.05 * 1.1 + 1  # a zoom out carries a shift along
    assert bool((moved.amax(dim=0) <= bound).all())
    assert bool((moved.amax(dim=0) >= bound * 0.7).all())

    # The line between two spots tells the turn and the zoom, whatever the shift.
    left = augment(spot(50, 30, count=400, height=height, width=width), generator())
    right = augment(spot(50, 70, count=400, height=height, width=width), generator())
    line = centres(right) - centres(left)
    turns = torch.atan2(line[:, 0], line[:, 1]).abs().max().item()
    assert 6 < math.degrees(turns) < 7.3
    lengths = line.norm(dim=1) / 40
    assert 0.92 < lengths.min().item() < 0.95
    assert 1.05 < lengths.max().item() < 1.09


def test_nothing_is_ever_mirrored() -> None:
    upper_left = centres(augment(spot(25, 25, count=400), generator()))
    assert bool((upper_left < 45).all())


def test_contrast_and_brightness_stay_small() -> None:
    flat = augment(torch.full((400, 1, 16, 16), 0.5), generator())
    means = flat.mean(dim=(1, 2, 3))
    assert 0.39 < means.min().item() < 0.42
    assert 0.58 < means.max().item() < 0.61


def test_an_edge_is_repeated_rather_than_black() -> None:
    bright = augment(torch.full((100, 1, 16, 16), 0.8), generator())
    torch.testing.assert_close(bright.amin(dim=(2, 3)), bright.amax(dim=(2, 3)))


def test_cipher_images_are_moved_but_never_mixed() -> None:
    colours = torch.randint(0, 256, (7, 3), generator=generator()).float() / 255
    picture = colours[torch.randint(0, 7, (4, 32, 32), generator=generator(2))]
    batch = picture.permute(0, 3, 1, 2)
    moved = augment(batch, generator(3))
    assert not torch.equal(moved, batch)
    found = {tuple(colour.tolist()) for colour in moved.permute(0, 2, 3, 1).reshape(-1, 3)}
    assert found <= {tuple(colour.tolist()) for colour in colours}
