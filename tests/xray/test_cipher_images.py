from __future__ import annotations

from statistics import correlation

import numpy as np
import pytest

from ppfl.crypto import Engine, PrivateKey, create_engine
from ppfl.errors import SettingsError
from ppfl.xray.cipher_images import LEVELS, CodeBook, encrypt_pixels

_LEVELS = np.arange(LEVELS, dtype=np.uint8).reshape(1, 16, 16)


@pytest.fixture(scope="module")
def engine(unsafe_key: PrivateKey) -> Engine:
    return create_engine(unsafe_key.public, unsafe_key, name="gmp")


def test_the_entries_of_a_code_book_open_to_the_grey_levels(engine: Engine) -> None:
    for book in (
        CodeBook.with_fixed_randomness(engine, b"secret"),
        CodeBook.without_randomness(engine),
    ):
        width = engine.ciphertext_bytes
        sealed = b"".join(number.to_bytes(width, "little") for number in book.ciphertexts)
        opened = np.frombuffer(engine.decrypt(sealed), np.uint8)
        levels = opened.reshape(LEVELS, engine.plaintext_bytes)
        assert (levels[:, 0] == np.arange(LEVELS)).all()
        assert not levels[:, 1:].any()


def test_a_secret_gives_one_code_book_and_another_secret_another(engine: Engine) -> None:
    one, same, other = (
        CodeBook.with_fixed_randomness(engine, secret) for secret in (b"a", b"a", b"b")
    )
    assert one.ciphertexts == same.ciphertexts
    assert not set(one.ciphertexts) & set(other.ciphertexts)
    assert len({tuple(colour) for colour in one.highest_bytes(_LEVELS).reshape(-1, 3)}) == LEVELS


def test_fixed_randomness_is_seen_from_the_public_key(engine: Engine) -> None:
    N = engine.public.N
    book = CodeBook.with_fixed_randomness(engine, b"secret").ciphertexts
    quotient = book[200] * pow(book[77], -1, N * N) % (N * N)
    assert quotient == 1 + (200 - 77) * N


def test_without_randomness_the_picture_stays_as_it_is(engine: Engine) -> None:
    picture = CodeBook.without_randomness(engine).highest_bytes(_LEVELS)
    assert (picture == _LEVELS[..., np.newaxis]).all()


@pytest.mark.parametrize("secret", [b"one", b"two", b"three", b"four"])
def test_the_bytes_shown_are_those_that_correlate_most_with_the_grey_level(
    engine: Engine, secret: bytes
) -> None:
    book = CodeBook.with_fixed_randomness(engine, secret)
    shown = book.correlated_bytes(_LEVELS).reshape(LEVELS, 3)
    bits = 8 * engine.ciphertext_bytes
    every = ([number >> low & 255 for number in book.ciphertexts] for low in range(bits - 7))
    varied = {low: column for low, column in enumerate(every) if len(set(column)) > 1}
    greys = range(LEVELS)
    clarity = {low: correlation(greys, column) for low, column in varied.items()}
    best, *others = sorted(varied, key=lambda low: -abs(clarity[low]))[:3]
    chosen = [best, *(low if abs(clarity[low]) >= 0.99 else best for low in others)]
    expected = [correlation(greys, _stretched(varied[low], clarity[low])) for low in chosen]
    found = [correlation(greys, channel) for channel in shown.T.tolist()]
    assert found == pytest.approx(expected, abs=1e-3)
    assert min(found) > 0  # no negative
    assert shown.min(axis=0).tolist() == [0] * 3
    assert shown.max(axis=0).tolist() == [255] * 3


def _stretched(column: list[int], sign: float) -> list[int]:
    turned = [byte if sign > 0 else -byte for byte in column]
    low, high = min(turned), max(turned)
    return [round((byte - low) * 255 / (high - low)) for byte in turned]


def test_where_three_bytes_are_clear_pictures_they_are_three() -> None:
    numbers = [grey << 9 for grey in range(LEVELS)]  # the grey, its upper 7 bits, its upper 6
    shown = CodeBook(numbers, 2**16).correlated_bytes(_LEVELS).reshape(LEVELS, 3)
    assert (shown[:, 0] == np.arange(LEVELS)).all()
    assert [len(set(channel)) for channel in shown.T.tolist()] == [256, 128, 64]


def test_the_low_byte_is_the_ciphertext_modulo_256(engine: Engine) -> None:
    book = CodeBook.with_fixed_randomness(engine, b"secret")
    picture = book.low_byte(_LEVELS)
    expected = [number % 256 for number in book.ciphertexts]
    assert picture.reshape(-1, 3).tolist() == [[byte] * 3 for byte in expected]


def test_fresh_randomness_gives_equal_pixels_different_colours(engine: Engine) -> None:
    black = np.zeros((2, 8, 8), np.uint8)
    colours = encrypt_pixels(black, engine).reshape(-1, 3)
    assert len({tuple(colour) for colour in colours}) > 120  # of 128; 24 bits seldom collide
    assert encrypt_pixels(black[:0], engine).shape == (0, 8, 8, 3)


def test_only_paillier_itself_makes_cipher_images(unsafe_key: PrivateKey) -> None:
    longer = create_engine(unsafe_key.public, name="gmp", s=2)
    with pytest.raises(SettingsError, match="s = 1"):
        encrypt_pixels(_LEVELS, longer)
    with pytest.raises(SettingsError, match="s = 1"):
        CodeBook.without_randomness(longer)
