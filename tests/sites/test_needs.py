"""What a study is said to take, against what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.crypto import PrivateKey
from ppfl.learning.images import load_images
from ppfl.learning.models import build_study_model, get_parameters
from ppfl.learning.sources import read_records
from ppfl.settings import Study, check_settings
from ppfl.xray import write_phantoms
from sites.needs import needs_of

_SIZE, _EACH = 64, 10


def _study(key: PrivateKey, cipher: str = "none", **sections: dict[str, Any]) -> Study:
    table: dict[str, Any] = {
        "name": "needs",
        "classes": ["Normal", "Effusion"],
        "images": {"size": _SIZE, "cipher": cipher},
        "model": {"architecture": "shufflenet_v2_x0_5"},
        "federation": {"sites": ["alpha", "beta"]},
        "encryption": {"key_fingerprint": key.public.fingerprint},
    }
    for name, section in sections.items():
        table[name] = table.get(name, {}) | section
    return check_settings(table, Study, where="test")


def test_the_cache_takes_what_is_said(tmp_path: Path, unsafe_key: PrivateKey) -> None:
    study = _study(unsafe_key)
    (tmp_path / "xrays").mkdir()
    write_phantoms(
        tmp_path / "xrays", counts=dict.fromkeys(study.classes, _EACH), size=_SIZE, seed=1
    )
    records = read_records(tmp_path / "xrays", classes=study.classes)
    load_images(records, classes=study.classes, size=_SIZE, cache=tmp_path / "cache")
    cached = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    without = needs_of(study, unsafe_key.public)
    needs = needs_of(study, unsafe_key.public, images=len(records))
    said = needs.site_disk - without.site_disk
    assert said == 2 * _EACH * _SIZE**2
    assert cached == pytest.approx(said, abs=1000)  # headers, and where each image was put
    assert needs.site_memory - without.site_memory == 2 * said
    assert needs.coordinator_disk == without.coordinator_disk


def test_cipher_images_take_three_bytes_a_pixel_more(unsafe_key: PrivateKey) -> None:
    pixels = 1000 * _SIZE**2
    plain = needs_of(_study(unsafe_key), unsafe_key.public)
    fresh = needs_of(_study(unsafe_key, "fresh_randomness"), unsafe_key.public, images=1000)
    book = needs_of(_study(unsafe_key, "unsafe_low_byte"), unsafe_key.public, images=1000)
    assert fresh.site_disk - plain.site_disk == 4 * pixels
    assert book.site_disk - plain.site_disk == pixels
    for needs in (fresh, book):
        assert needs.site_memory - plain.site_memory == 5 * pixels


def test_what_is_kept_of_every_round_takes_room(unsafe_key: PrivateKey) -> None:
    rounds = {"training": {"rounds": 50}}
    none = needs_of(_study(unsafe_key, **rounds), unsafe_key.public)
    update = none.traffic.round_up
    kept = _study(unsafe_key, **rounds, federation={"keep_ciphertexts": True})
    needs = needs_of(kept, unsafe_key.public)
    assert needs.coordinator_disk - none.coordinator_disk == 50 * 2 * update
    stepping = _study(unsafe_key, training={"rounds": 50, "server_optimiser": "fedadam"})
    needs = needs_of(stepping, unsafe_key.public)
    assert needs.coordinator_disk - none.coordinator_disk == 50 * update
    model = sum(array.nbytes for array in get_parameters(build_study_model(stepping)).values())
    assert needs.site_disk - none.site_disk == 9 * model
