from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import equalisation
from benchmarks.equalisation import Outcome, available_changes
from ppfl.learning.files import save_model
from ppfl.learning.models import build_model, get_parameters
from ppfl.xray import write_phantoms


def test_a_dull_picture_is_spread_over_all_greys() -> None:
    dull = Image.fromarray(np.linspace(100, 120, 4096).astype(np.uint8).reshape(64, 64))
    for name, change in available_changes().items():
        lowest, highest = change(dull).getextrema()
        assert (highest - lowest > 25) is (name != "none"), name


def test_the_table_compares_seed_by_seed() -> None:
    plain = [Outcome(0.9, 0.99, 0.8), Outcome(0.8, 0.97, 0.7)]
    other = [Outcome(0.91, 0.98, 0.85), Outcome(0.78, 0.98, 0.8)]
    row = equalisation._row("clahe", other, plain)
    assert row == (
        "| clahe | 84.50 | 0.9800 | -0.50 [-2.00, +1.00] | 82.50 | +7.50 [+5.00, +10.00] |"
    )


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path / "xrays", counts={"Normal": 8, "Nodule": 8}, size=64, seed=1)
    weights = tmp_path / "weights.safetensors"
    start = get_parameters(build_model("mobilenet_v2", classes=2, seed=1))
    save_model(weights, start, metadata={})
    options = ["--weights", str(weights), "--classes", "Normal", "Nodule", "--size", "32"]
    options += ["--images", "8", "--epochs", "1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["equalisation.py", str(tmp_path / "xrays"), *options])
    monkeypatch.setattr(equalisation, "keep_freed_memory", lambda: None)  # of a whole process
    equalisation.main()
    told = capsys.readouterr().out
    assert "| none | " in told
    assert "| histogram | " in told
