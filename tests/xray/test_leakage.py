from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from sklearn.metrics import mutual_info_score
from torchmetrics.functional.image import structural_similarity_index_measure

from ppfl.errors import DataError
from ppfl.xray.leakage import Leakage, measure_leakage, pack_colours, structural_similarity
from tests.xray.code_books import (
    Bytes,
    in_three_channels,
    one_byte_of_it,
    phantoms,
    under_fresh_randomizers,
    under_one_randomizer,
)

PLAIN = phantoms(24, seed=1)


def leakage(cipher: Bytes, shuffles: int = 20) -> Leakage:
    return measure_leakage(PLAIN, cipher, generator=default_rng(9), shuffles=shuffles)


def test_plain_pixels_leak_everything() -> None:
    found = leakage(in_three_channels(PLAIN))
    assert found.correlation == pytest.approx(1)
    assert found.mutual_information_bits == pytest.approx(found.plain_entropy_bits)
    assert found.edges_kept == pytest.approx(1)
    assert found.structural_similarity == pytest.approx(1)


def test_a_negative_is_correlated_as_much_as_the_picture() -> None:
    assert leakage(in_three_channels(255 - PLAIN)).correlation == pytest.approx(1)


def test_one_channel_suffices_to_leak() -> None:
    cipher = under_fresh_randomizers(PLAIN, default_rng(2))
    cipher[..., 1] = PLAIN
    found = leakage(cipher)
    assert found.correlation == pytest.approx(1)
    assert found.mutual_information_bits == pytest.approx(found.plain_entropy_bits)


def test_a_code_book_hides_the_correlation_but_keeps_the_whole_information() -> None:
    found = leakage(under_one_randomizer(PLAIN, default_rng(2)))
    assert found.correlation < 0.3
    assert found.mutual_information_bits == pytest.approx(found.plain_entropy_bits)
    assert found.edges_kept > found.edges_kept_by_chance + 0.01


def test_one_byte_of_the_ciphertext_keeps_most_of_the_information() -> None:
    found = leakage(one_byte_of_it(PLAIN, default_rng(2)))
    assert 0.8 < found.mutual_information_bits / found.plain_entropy_bits < 1


@pytest.mark.parametrize("seed", range(3))
def test_fresh_randomizers_leave_every_measure_at_its_null(seed: int) -> None:
    found = leakage(under_fresh_randomizers(PLAIN, default_rng(seed)), shuffles=40)
    assert found.correlation < 1.5 * found.null_correlation
    spread = found.null_mutual_information_bits_p99 - found.null_mutual_information_bits
    excess = found.mutual_information_bits - found.null_mutual_information_bits
    assert abs(excess) < 2 * spread
    assert found.null_mutual_information_bits > 0.1
    assert found.edges_kept == pytest.approx(found.edges_kept_by_chance, abs=0.01)
    assert abs(found.structural_similarity) < 0.03


def test_the_information_is_that_of_an_independent_estimator() -> None:
    cipher = under_fresh_randomizers(PLAIN, default_rng(2))
    cipher[..., 0] = PLAIN // 2 + cipher[..., 0] // 8
    expected = mutual_info_score(PLAIN.ravel(), cipher[..., 0].ravel()) / np.log(2)
    assert leakage(cipher, shuffles=2).mutual_information_bits == pytest.approx(expected)


def test_the_similarity_is_that_of_an_independent_implementation() -> None:
    one, other = PLAIN[:4], np.clip(PLAIN[4:8] // 2 + PLAIN[:4] // 2, 0, 255).astype(np.uint8)
    tensors = (torch.from_numpy(x[:, None].astype(np.float64)) for x in (one, other))
    _, windows = structural_similarity_index_measure(
        *tensors, gaussian_kernel=False, kernel_size=7, data_range=255.0, return_full_image=True
    )
    expected = float(windows[..., 3:-3, 3:-3].mean())
    assert structural_similarity(one, other) == pytest.approx(expected)


def test_constant_cipher_images_leak_nothing() -> None:
    found = leakage(np.full((*PLAIN.shape, 3), 7, dtype=np.uint8), shuffles=2)
    assert found.correlation == pytest.approx(0)
    assert found.mutual_information_bits == pytest.approx(0)
    assert found.edges_kept == pytest.approx(found.edges_kept_by_chance)


def test_a_generator_in_an_equal_state_gives_equal_figures() -> None:
    cipher = under_fresh_randomizers(PLAIN, default_rng(2))
    assert leakage(cipher, shuffles=3) == leakage(cipher, shuffles=3)


def test_colours_are_numbered_red_first() -> None:
    assert pack_colours(np.array([[[1, 2, 3]]], dtype=np.uint8)).item() == 0x010203


@pytest.mark.parametrize(
    ("plain", "cipher", "said"),
    [
        (PLAIN, PLAIN, "(..., h, w, 3) uint8 is needed"),
        (PLAIN, in_three_channels(PLAIN).astype(np.int64), "int64"),
        (PLAIN[:2], in_three_channels(PLAIN), "(2, 56, 64) uint8 beside"),
        (PLAIN[0], in_three_channels(PLAIN[0]), "(56, 64) uint8 beside"),
        (PLAIN.astype(float), in_three_channels(PLAIN), "float64 beside"),
        (PLAIN[:0], in_three_channels(PLAIN[:0]), "at least 7 × 7 pixels"),
        (PLAIN[:, :6], in_three_channels(PLAIN[:, :6]), "at least 7 × 7 pixels"),
    ],
)
def test_arrays_of_another_kind_are_refused(plain: Bytes, cipher: Bytes, said: str) -> None:
    with pytest.raises(DataError) as raised:
        measure_leakage(plain, cipher, generator=default_rng(1))
    assert said in str(raised.value)


def test_edges_that_one_channel_shows_are_found_among_noise() -> None:
    cipher = under_fresh_randomizers(PLAIN, default_rng(2))
    cipher[..., 1] = PLAIN
    assert leakage(cipher, shuffles=2).edges_kept == pytest.approx(1)
