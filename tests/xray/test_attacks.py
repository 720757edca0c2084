from __future__ import annotations

import secrets

import numpy as np
import pytest
from numpy.random import default_rng

from ppfl.crypto import PrivateKey
from ppfl.errors import DataError
from ppfl.xray.attacks import (
    GuessedCodeBook,
    Recovery,
    frequency_attack,
    known_plaintext_attack,
    quotient_attack,
    score_recovery,
)
from ppfl.xray.leakage import pack_colours
from tests.xray.code_books import (
    Bytes,
    in_three_channels,
    one_byte_of_it,
    phantoms,
    under_fresh_randomizers,
    under_one_randomizer,
)

PLAIN = phantoms(30, seed=1)
PUBLIC = phantoms(30, seed=2, gamma=1.2)


def by_frequency(cipher: Bytes) -> Recovery:
    return score_recovery(PLAIN[: len(cipher)], frequency_attack(cipher, PUBLIC).decode(cipher))


def by_known(cipher: Bytes, known: int) -> Recovery:
    book = known_plaintext_attack(
        cipher[known:], known_cipher=cipher[:known], known_plain=PLAIN[:known]
    )
    return score_recovery(PLAIN[known:], book.decode(cipher[known:]))


def test_other_peoples_pictures_open_the_code_book() -> None:
    recovery = by_frequency(under_one_randomizer(PLAIN, default_rng(1)))
    assert recovery.within_8 > 0.97
    assert recovery.correlation > 0.99
    assert recovery.structural_similarity > 0.95


def test_a_single_cipher_image_shows_its_patient() -> None:
    assert by_frequency(under_one_randomizer(PLAIN[:1], default_rng(1))).correlation > 0.95


def test_the_order_is_found_in_negatives_too() -> None:
    cipher = under_one_randomizer(255 - PLAIN, default_rng(1))
    recovered = frequency_attack(cipher, 255 - PUBLIC).decode(cipher)
    assert score_recovery(255 - PLAIN, recovered).within_8 > 0.97


def test_a_run_of_greys_is_put_where_public_pictures_are_bright() -> None:
    plain = (PLAIN // 2 + 100).astype(np.uint8)
    cipher = under_one_randomizer(plain, default_rng(1))
    greys = frequency_attack(cipher, plain[::-1]).greys
    assert abs(int(greys.min()) - int(plain.min())) <= 8


def test_shared_bytes_are_told_apart_by_their_neighbours() -> None:
    recovery = by_frequency(one_byte_of_it(PLAIN, default_rng(1)))
    assert recovery.correlation > 0.7


def test_one_known_xray_opens_the_code_book() -> None:
    recovery = by_known(under_one_randomizer(PLAIN, default_rng(1)), known=1)
    assert recovery.within_8 > 0.97


def test_a_colour_that_was_seen_means_what_it_meant() -> None:
    cipher = under_one_randomizer(PLAIN, default_rng(1))
    book = known_plaintext_attack(cipher, known_cipher=cipher[:2], known_plain=PLAIN[:2])
    assert np.array_equal(book.decode(cipher[:2]), PLAIN[:2])


def test_two_known_xrays_open_shared_bytes_although_one_grey_a_colour_does_not() -> None:
    cipher = one_byte_of_it(PLAIN, default_rng(1))
    book = known_plaintext_attack(cipher[2:], known_cipher=cipher[:2], known_plain=PLAIN[:2])
    alone = book.greys[np.searchsorted(book.colours, pack_colours(cipher[2:]))]
    assert score_recovery(PLAIN[2:], alone).within_8 < 0.85
    assert score_recovery(PLAIN[2:], book.decode(cipher[2:])).within_8 > 0.93


def test_colours_never_seen_take_their_place_in_the_order() -> None:
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (1, 40, 1))
    rest = np.tile(np.arange(240, dtype=np.uint8), (1, 40, 1))[:, :, 60:180]
    plain = np.concatenate([ramp, rest, rest + 1])
    cipher = under_one_randomizer(plain, default_rng(1))
    book = known_plaintext_attack(cipher, known_cipher=cipher[:1], known_plain=plain[:1])
    assert abs(book.decode(cipher[1:]).astype(int) - plain[1:]).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_fresh_randomizers_leave_both_attacks_at_chance(channels: int) -> None:
    cipher = under_fresh_randomizers(PLAIN, default_rng(1))
    if channels == 1:
        cipher = in_three_channels(cipher[..., 0])
    for recovery in (by_frequency(cipher), by_known(cipher, 10)):
        assert abs(recovery.correlation) < 0.05
        assert recovery.within_8 < 0.25


def test_a_foreign_colour_is_taken_for_the_median() -> None:
    book = GuessedCodeBook(np.array([5], dtype=np.uint32), np.eye(256)[[9]], otherwise=77)
    cipher = np.array([[[[0, 0, 5], [0, 0, 6], [0, 0, 4]]]], dtype=np.uint8)
    assert book.decode(cipher).tolist() == [[[9, 77, 77]]]


def test_a_pixel_between_two_greys_takes_the_neighbours() -> None:
    beliefs = np.zeros((2, 256))
    beliefs[0, [20, 200]] = 0.7, 0.3
    beliefs[1, 205] = 1
    book = GuessedCodeBook(np.array([1, 2], dtype=np.uint32), beliefs, otherwise=0)
    cipher = np.zeros((1, 5, 5, 3), dtype=np.uint8)
    cipher[..., 2] = 2
    cipher[0, 2, 2, 2] = 1
    assert book.decode(cipher)[0, 2, 2] == 200


def test_scores_of_a_perfect_and_of_a_constant_picture() -> None:
    assert score_recovery(PLAIN, PLAIN) == Recovery(1.0, pytest.approx(1), pytest.approx(1))
    grey = score_recovery(PLAIN, np.full_like(PLAIN, 128))
    assert grey.correlation == 0
    assert grey.within_8 == (abs(PLAIN.astype(int) - 128) <= 8).mean()


def test_quotients_of_ciphertexts_are_the_greys(unsafe_key: PrivateKey) -> None:
    greys = [3, 250, 7, 7, 128, 3]
    modulus, randomizer = unsafe_key.public.N, _randomizer(unsafe_key)
    ciphertexts = [_encrypt(unsafe_key, grey, randomizer) for grey in greys]
    assert quotient_attack(ciphertexts, modulus).tolist() == [grey - 3 for grey in greys]


def test_black_and_white_make_the_quotients_exact(unsafe_key: PrivateKey) -> None:
    randomizer = _randomizer(unsafe_key)
    ciphertexts = [_encrypt(unsafe_key, grey, randomizer) for grey in range(256)]
    found = quotient_attack(ciphertexts[::-1], unsafe_key.public.N)
    assert found.tolist() == list(range(255, -1, -1))


def test_fresh_randomizers_have_no_quotient(unsafe_key: PrivateKey) -> None:
    ciphertexts = [_encrypt(unsafe_key, 7, _randomizer(unsafe_key)) for _ in range(3)]
    with pytest.raises(DataError, match="0 and 1 have no grey as quotient"):
        quotient_attack(ciphertexts, unsafe_key.public.N)


def test_plaintexts_that_are_no_greys_have_no_quotient(unsafe_key: PrivateKey) -> None:
    randomizer = _randomizer(unsafe_key)
    ciphertexts = [_encrypt(unsafe_key, m, randomizer) for m in (0, 256)]
    with pytest.raises(DataError, match="no grey as quotient"):
        quotient_attack(ciphertexts, unsafe_key.public.N)
    ciphertexts = [_encrypt(unsafe_key, m, randomizer) for m in (200, 0, 400)]
    with pytest.raises(DataError, match="span 401 greys"):
        quotient_attack(ciphertexts, unsafe_key.public.N)


def test_quotients_need_ciphertexts_of_the_key(unsafe_key: PrivateKey) -> None:
    with pytest.raises(DataError, match="no ciphertext"):
        quotient_attack([], unsafe_key.public.N)
    with pytest.raises(DataError, match="shares a factor with N"):
        quotient_attack([unsafe_key.P], unsafe_key.public.N)


@pytest.mark.parametrize(
    ("cipher", "public", "said"),
    [
        (PLAIN, PUBLIC, "(..., h, w, 3) uint8 is needed"),
        (in_three_channels(PLAIN)[0], PUBLIC, "(56, 64, 3); (n, h, w, 3)"),
        (in_three_channels(PLAIN[:0]), PUBLIC, "(0, 56, 64, 3); (n, h, w, 3), not empty"),
        (in_three_channels(PLAIN), PUBLIC[:, :32], "as high and wide"),
        (in_three_channels(PLAIN), PUBLIC[:0], "as high and wide"),
        (in_three_channels(PLAIN), PUBLIC.astype(float), "float64 beside"),
    ],
)
def test_a_frequency_attack_on_other_arrays_is_refused(
    cipher: Bytes, public: Bytes, said: str
) -> None:
    with pytest.raises(DataError) as raised:
        frequency_attack(cipher, public)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("cipher", "known_cipher", "known_plain", "said"),
    [
        (PLAIN, PLAIN[:2], PLAIN[:3], "(3, 56, 64) uint8 beside"),
        (PLAIN, PLAIN[:2], PLAIN[:2].astype(float), "float64 beside"),
        (PLAIN, PLAIN[:0], PLAIN[:0], "not empty"),
        (PLAIN[:, :32], PLAIN[:2], PLAIN[:2], "(30, 32, 64, 3) beside known ones"),
    ],
)
def test_known_xrays_of_another_kind_are_refused(
    cipher: Bytes, known_cipher: Bytes, known_plain: Bytes, said: str
) -> None:
    with pytest.raises(DataError) as raised:
        known_plaintext_attack(
            in_three_channels(cipher),
            known_cipher=in_three_channels(known_cipher),
            known_plain=known_plain,
        )
    assert said in str(raised.value)


def test_scores_need_pictures_of_one_shape() -> None:
    with pytest.raises(DataError, match=r"\(30, 56, 64\) and \(2, 56, 64\)"):
        score_recovery(PLAIN, PLAIN[:2])


def _randomizer(key: PrivateKey) -> int:
    N = key.public.N
    return pow(secrets.randbelow(N - 1) + 1, N, N * N)


def _encrypt(key: PrivateKey, grey: int, randomizer: int) -> int:
    N = key.public.N
    return (1 + grey * N) * randomizer % (N * N)
