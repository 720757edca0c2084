from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppfl.crypto import PrivateKey, generate_unsafe_key
from ppfl.crypto.gmp import GmpEngine
from ppfl.errors import KeyMismatchError, PpflError, VaultError
from ppfl.xray import vault_file as module
from ppfl.xray.vault_file import VaultImage, VaultKey, open_image, seal_image
from tests.vectors.make_vault import golden_image, golden_key

_KEY = generate_unsafe_key(256)
_WRITER = VaultKey(_KEY.public)
_READER = VaultKey(_KEY.public, _KEY)
_HEAD = 47  # bytes before the ciphertexts


def _image(bits: int = 12, *, height: int = 5, width: int = 7, seed: int = 1) -> VaultImage:
    pixels = np.random.default_rng(seed).integers(0, 2**bits, (height, width), dtype=np.uint16)
    return VaultImage(pixels, bits, "Normal", "patient ü")


@given(
    bits=st.integers(8, 16),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    label=st.text(max_size=9),
)
def test_an_image_comes_back_exactly(
    bits: int, height: int, width: int, seed: int, label: str
) -> None:
    image = _image(bits, height=height, width=width, seed=seed)
    sealed = seal_image(VaultImage(image.pixels, bits, label, "g"), _WRITER)
    opened = open_image(sealed, _READER)
    assert (opened.pixels == image.pixels).all()
    assert (opened.bits, opened.label, opened.group) == (bits, label, "g")


@pytest.mark.parametrize("s", [1, 2, 3])
def test_files_of_every_s_are_opened(monkeypatch: pytest.MonkeyPatch, s: int) -> None:
    image = _image()
    monkeypatch.setattr(VaultKey.engine, "__defaults__", (s,))
    sealed = seal_image(image, _WRITER)
    monkeypatch.undo()
    assert sealed[10] == s
    assert (open_image(sealed, _READER).pixels == image.pixels).all()


def test_large_pictures_are_packed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(11, height=20, width=17)
    whole = module._pack(image.pixels, 11)
    monkeypatch.setattr(module, "_CHUNK", 64)
    assert module._pack(image.pixels, 11) == whole
    assert (module._unpack(whole, 20 * 17, 11) == image.pixels.reshape(-1)).all()


def test_nothing_readable_is_in_the_file_and_no_two_are_alike() -> None:
    image = _image()
    first, second = seal_image(image, _WRITER), seal_image(image, _WRITER)
    assert b"Normal" not in first
    assert image.pixels.tobytes()[:8] not in first
    assert first[_HEAD:] != second[_HEAD:]
    assert len(first) == len(second)


def test_a_file_of_version_1_is_opened_ever_after() -> None:
    key, image = golden_key(), golden_image()
    sealed = (Path(__file__).parents[1] / "vectors" / "golden.xray").read_bytes()
    opened = open_image(sealed, VaultKey(key.public, key))
    assert (opened.pixels == image.pixels).all()
    assert (opened.bits, opened.label, opened.group) == (image.bits, image.label, image.group)
    assert len(seal_image(image, VaultKey(key.public))) == len(sealed)


def test_golden_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GmpEngine, "fresh_randomizers", _ones)
    image = VaultImage(np.array([[1, 0xABC]], np.uint16), 12, "L", "")
    writer = VaultKey(_KEY.public, engine="gmp")
    header = b"PPFLXRAY\x01\0\x02" + bytes.fromhex(_KEY.public.fingerprint) + b"\x01\0\0\0"
    inside = b"\x01\0\0\0\x02\0\0\0\x0c\x01\0\0\0L\x01\xc0\xab"
    inside += hashlib.sha256(header + inside).digest()
    assert len(inside) <= 63  # what fits below N²
    # a ciphertext whose randomness is 1 is (1 + N)^m
    N = _KEY.public.N
    number = pow(1 + N, int.from_bytes(inside, "little"), N**3)
    golden = header + number.to_bytes(96, "little")
    assert seal_image(image, writer) == golden
    assert open_image(golden, _READER).label == "L"


def _ones(engine: GmpEngine, count: int) -> bytes:
    return (1).to_bytes(engine.ciphertext_bytes, "little") * count


def test_a_file_cut_at_any_byte_or_with_any_byte_flipped_is_refused() -> None:
    sealed = seal_image(_image(8, height=3, width=4), _WRITER)
    for position in range(len(sealed)):
        with pytest.raises(PpflError):
            open_image(sealed[:position], _READER)
        changed = bytearray(sealed)
        changed[position] ^= 1 << position % 8
        with pytest.raises(PpflError):
            open_image(bytes(changed), _READER)
    with pytest.raises(VaultError, match="needed"):
        open_image(sealed + b"\0", _READER)


def test_what_is_wrong_is_said() -> None:
    sealed = seal_image(_image(), _WRITER)
    with pytest.raises(VaultError, match="not a vault file"):
        open_image(b"", _READER)
    with pytest.raises(VaultError, match="version 2, this program reads 1"):
        open_image(sealed[:8] + b"\2\0" + sealed[10:], _READER)
    for s in (0, 4, 255):
        with pytest.raises(VaultError, match=f"s = {s}, from 1 to 3 needed"):
            open_image(sealed[:10] + bytes([s]) + sealed[11:], _READER)
    with pytest.raises(VaultError, match="needed"):
        open_image(sealed[:43] + b"\xff" * 4 + sealed[_HEAD:], _READER)
    other = generate_unsafe_key(256)
    with pytest.raises(KeyMismatchError, match="this key is"):
        open_image(sealed, VaultKey(other.public, other))


def test_a_damaged_name_of_the_key_is_shown_up_to_the_damage() -> None:
    damaged = bytearray(seal_image(_image(), _WRITER))
    damaged[20] ^= 1  # the tenth byte of 32: the 20th digit
    with pytest.raises(KeyMismatchError) as caught:
        open_image(bytes(damaged), _READER)
    theirs, ours = re.findall("[0-9a-f]{20}", str(caught.value))
    assert (theirs != ours, theirs[:19]) == (True, ours[:19])


def test_two_ciphertexts_that_changed_places_are_noticed() -> None:
    sealed = seal_image(_image(height=20), _WRITER)
    width = _WRITER.engine().ciphertext_bytes
    numbers = [sealed[at : at + width] for at in range(_HEAD, len(sealed), width)]
    swapped = sealed[:_HEAD] + b"".join([numbers[1], numbers[0], *numbers[2:]])
    with pytest.raises(VaultError, match="changed or damaged"):
        open_image(swapped, _READER)


def test_sizes_and_bits_that_lie_inside_are_not_believed() -> None:
    """A writer of bad faith can seal anything under the public key; nothing of it is allocated."""
    for height, width, bits in ((2**31, 2**31, 8), (0, 1, 8), (1, 1, 7), (1, 1, 17), (9, 9, 8)):
        row = struct.pack("<IIBHH", height, width, bits, 0, 0).ljust(64, b"\0")
        header = b"PPFLXRAY\x01\0\x02" + bytes.fromhex(_KEY.public.fingerprint) + b"\x01\0\0\0"
        with pytest.raises(VaultError, match="changed or damaged"):
            open_image(header + _WRITER.engine(2).encrypt(row), _READER)


def test_pictures_that_do_not_fit_are_refused() -> None:
    for pixels, bits in (
        (np.zeros((0, 4), np.uint16), 8),
        (np.zeros((1, 4), np.uint16), 17),
        (np.full((1, 4), 256, np.uint16), 8),
    ):
        with pytest.raises(VaultError):
            seal_image(VaultImage(pixels, bits, "", ""), _WRITER)
    with pytest.raises(VaultError, match="no Unicode"):
        seal_image(VaultImage(np.zeros((1, 1), np.uint16), 8, "\udcff", ""), _WRITER)
    with pytest.raises(VaultError, match="65,535"):
        seal_image(VaultImage(np.zeros((1, 1), np.uint16), 8, "x" * 2**16, ""), _WRITER)


@pytest.mark.slow
def test_a_chest_of_full_size_under_a_full_key(full_key: PrivateKey) -> None:
    image = _image(8, height=299, width=299)
    sealed = seal_image(image, VaultKey(full_key.public))
    assert len(sealed) < 1.52 * 299 * 299
    opened = open_image(sealed, VaultKey(full_key.public, full_key))
    assert (opened.pixels == image.pixels).all()
