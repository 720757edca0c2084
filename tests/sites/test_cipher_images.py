"""Cipher images of a site: whose secret makes them, and that a network runs on them."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ppfl.errors import DataError, ModelError, SettingsError
from ppfl.federation import read_journal
from ppfl.federation.journal import StudyClosed
from ppfl.learning.study_model import StudyModel
from ppfl.settings import SiteFile, Study
from ppfl.xray.cipher_images import LEVELS
from simulations.prepare import prepare
from sites.cipher_images import code_book
from sites.xrays import XRays
from tests.simulations.tiny import prepare_once, run_without_report, tiny_scenario


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cipher") / "run"
    prepare_once(tiny_scenario("shared"), folder)
    return folder


def _images(run: Path, name: str, **options: object) -> NDArray[np.uint8]:
    """North's X-rays as another site's key and secret make them."""
    study = Study.read(run / "study.toml")
    study = study.model_copy(
        update={"images": study.images.model_copy(update={"size": 32} | options)}
    )
    site = _site(run, name).model_copy(update={"data": run / "sites" / "north" / "xrays"})
    site.work.mkdir(exist_ok=True)
    return XRays(site, study).images("train").images


def _site(run: Path, name: str) -> SiteFile:
    return SiteFile.read(run / "sites" / name / "site.toml")


def test_sites_of_a_federation_share_a_code_book_or_have_their_own(run: Path) -> None:
    fixed = {"cipher": "unsafe_fixed_randomness"}
    plain = _images(run, "north")
    shared = [_images(run, name, **fixed) for name in ("north", "west")]
    assert shared[0].shape == (*plain.shape, 3)
    assert (shared[0] == shared[1]).all()
    books = [
        code_book(_site(run, name), fixed["cipher"], whose)
        for name, whose in (("north", "federation"), ("north", "site"), ("west", "site"))
    ]
    # books of two secrets have no ciphertext in common, but bytes of them may show much the same
    assert len({number for book in books for number in book.ciphertexts}) == 3 * LEVELS
    assert (shared[0] == books[0].correlated_bytes(plain)).all()
    for name, book in zip(("north", "west"), books[1:], strict=True):
        own = _images(run, name, **fixed, cipher_secret="site")
        assert (own == book.correlated_bytes(plain)).all()
    secret = run / "sites" / "north" / "work" / "cipher.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"short")
    with pytest.raises(DataError, match="holds 5 bytes"):
        _images(run, "north", cipher="unsafe_low_byte", cipher_secret="site")


def test_equal_pixels_stay_equal_unless_the_randomness_is_fresh(run: Path) -> None:
    plain = _images(run, "east")
    darkest = plain == plain.min()
    for kind in ("unsafe_fixed_randomness", "unsafe_low_byte", "unsafe_no_randomness"):
        assert len(np.unique(_images(run, "east", cipher=kind)[darkest], axis=0)) == 1
    fixed = {"cipher": "unsafe_fixed_randomness"}
    highest = _images(run, "east", **fixed, cipher_bytes="highest")
    assert len(np.unique(highest[darkest], axis=0)) == 1
    book = code_book(_site(run, "east"), fixed["cipher"], "federation")
    assert (highest == book.highest_bytes(plain)).all()
    fresh = _images(run, "east", cipher="fresh_randomness")
    assert len(np.unique(fresh[darkest], axis=0)) > 0.99 * darkest.sum()
    # a second round sees the same ciphertexts: pixels are encrypted once
    assert (fresh == _images(run, "east", cipher="fresh_randomness")).all()


def test_cipher_images_need_a_key(run: Path) -> None:
    study = Study.read(run / "study.toml")
    images = study.images.model_copy(update={"cipher": "unsafe_low_byte"})
    site = SiteFile.read(run / "sites" / "north" / "site.toml").model_copy(update={"key": None})
    with pytest.raises(SettingsError, match="need a key"):
        XRays(site, study.model_copy(update={"images": images})).images("train")
    with pytest.raises(SettingsError, match="unsafe_plaintext has none"):
        prepare(
            tiny_scenario("unsafe_plaintext", images={"cipher": "unsafe_low_byte"}), run / "none"
        )

    both = {"mean_xray_size": 32, "release_floor": 5}
    with pytest.raises(SettingsError, match="not of cipher images"):
        prepare(
            tiny_scenario("shared", images={"cipher": "unsafe_low_byte"}, federation=both),
            run / "none",
        )


@pytest.mark.slow
def test_a_study_runs_on_cipher_images(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    scenario = tiny_scenario(
        "shared",
        images={"cipher": "unsafe_fixed_randomness"},
        training={"rounds": 1},
    )
    prepare(scenario, folder)
    run_without_report(folder)
    assert isinstance(read_journal(folder / "journal.jsonl")[-1], StudyClosed)
    model = StudyModel.read(folder / "sites" / "north" / "work" / "model.safetensors")
    with pytest.raises(ModelError, match="cipher = unsafe_fixed_randomness"):
        model.predict(np.zeros((1, 64, 64), np.uint8))
