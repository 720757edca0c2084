from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import training_speed
from benchmarks.training_speed import BareLoop, alternate, random_images
from ppfl.learning.images import ImageSet


def test_the_bare_loop_learns() -> None:
    labels = np.arange(60) % 3
    pixels = np.zeros((60, 8, 8), np.uint8)
    pixels[np.arange(60), :, labels] = 255
    data = ImageSet(pixels, labels)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3))
    loop = BareLoop(model, data, batch_size=12, augmented=False)
    seconds = [loop.step() for _ in range(150)]
    assert min(seconds) > 0
    seen = [loop.next_batch() for _ in range(5)]
    hits = [(model(batch).argmax(1) == truth).sum() for batch, truth in seen]
    assert sum(int(each) for each in hits) > 54


@pytest.mark.parametrize("augmented", [False, True])
def test_each_epoch_of_the_bare_loop_has_each_image_once(augmented: bool) -> None:
    data = random_images(10, 8)
    loop = BareLoop(nn.Linear(1, 1), data, batch_size=5, augmented=augmented)
    for _ in range(2):
        batches = [loop.next_batch() for _ in range(2)]
        pixels = torch.cat([pixels for pixels, _ in batches])
        assert pixels.shape == (10, 3, 8, 8)
        labels = torch.cat([labels for _, labels in batches])
        assert sorted(labels.tolist()) == sorted(data.labels.tolist())
        sums = sorted(pixels.sum(dim=(1, 2, 3)).tolist())
        plain = sorted(((data.images / 255 - 0.5) / 0.25).sum(axis=(1, 2)) * 3)
        assert np.allclose(sums, plain, atol=0.01) is not augmented


def test_a_step_of_ours_is_timed_without_the_bare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(BareLoop, "step", lambda _: 100.0 + 0 * next(clock))
    found = alternate(32, batch_size=2, steps=3, augmented=False)
    assert (found.ours, found.bare, found.closing) == ([1.0] * 3, [100.0] * 3, 1.0)


def test_the_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training_speed, "_PHANTOMS", {"Normal": 2, "Nodule": 2})
    arguments = ["training_speed.py", "--sizes", "32", "--batch-size", "4", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(training_speed, "keep_freed_memory", lambda: None)  # of a whole process
    training_speed.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 32")]
    speed, reading = (
        [float(cell.replace(",", "")) for cell in line.strip("| ").split(" | ")] for line in lines
    )
    assert (len(speed), len(reading)) == (11, 3)
    assert all(figure >= 0 for figure in speed + reading)
    assert all(figure > 0 for figure in speed[:7])
