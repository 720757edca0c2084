from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from ppfl.errors import ModelError, NotFiniteError
from sites.local_layers import LocalLayers
from sites.requests import Parameters


def _layer(value: float) -> Parameters:
    return {"stem.weight": np.full((2, 3), value, np.float32), "stem.bias": np.ones(2, np.float32)}


def _value(parameters: Parameters) -> float | None:
    return float(parameters["stem.weight"][0, 0]) if parameters else None


def test_a_round_begins_with_the_last_one_that_the_site_trained_in(tmp_path: Path) -> None:
    kept = LocalLayers(tmp_path, study="ab")
    assert kept.before(1, run="1") == {}
    for number in (1, 2, 4):  # absent in round 3
        kept.keep(_layer(number), round_number=number, run="1")
    assert [_value(kept.before(number, run="1")) for number in (5, 4)] == [4, 2]
    assert list(kept.before(5, run="1")) == ["stem.weight", "stem.bias"]
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["local-2.safetensors", "local-4.safetensors"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_round_that_is_done_again_begins_as_it_did_the_first_time(tmp_path: Path) -> None:
    kept = LocalLayers(tmp_path, study="ab")
    for number, value in ((1, 1.0), (2, 2.0), (2, 2.5)):
        kept.keep(_layer(value), round_number=number, run="1")
    assert [_value(kept.before(number, run="1")) for number in (2, 3)] == [1, 2.5]


def test_another_study_and_another_run_are_never_read(tmp_path: Path) -> None:
    kept = LocalLayers(tmp_path, study="ab")
    for number in (1, 2):
        kept.keep(_layer(number), round_number=number, run="1")
    assert LocalLayers(tmp_path, study="cd").before(3, run="1") == {}
    assert kept.before(3, run="2") == {}
    kept.keep(_layer(7), round_number=3, run="2")
    assert kept.before(4, run="1") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["local-3.safetensors"]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    kept = LocalLayers(tmp_path, study="ab")
    with pytest.raises(NotFiniteError, match=r"stem\.weight: NaN or infinity"):
        kept.keep(_layer(np.inf), round_number=1, run="1")
    assert kept.before(2, run="1") == {}
    kept.keep(_layer(1), round_number=1, run="1")
    (tmp_path / "local-1.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"local-1\.safetensors: not a readable model file"):
        kept.before(2, run="1")
