from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from ppfl.errors import ModelError
from ppfl.learning.files import load_model, read_tensors, save_model

PARAMETERS = {
    "z.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([-0.0, 1e-40], dtype=np.float32),
    "scalar": np.array(2.5, dtype=np.float32),
}


def test_a_saved_model_comes_back_bit_for_bit_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, PARAMETERS, metadata={"study": "lungs"})
    parameters, metadata = load_model(path)
    assert metadata == {"study": "lungs"}
    assert list(parameters) == list(PARAMETERS)
    for name, array in PARAMETERS.items():
        assert parameters[name].shape == array.shape
        assert parameters[name].tobytes() == array.tobytes()


def test_a_transposed_array_is_saved_by_its_values(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_model(path, {"w": array}, metadata={})
    np.testing.assert_array_equal(load_model(path)[0]["w"], array)


def test_only_the_owner_can_read_the_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    path.chmod(0o644)
    save_model(path, PARAMETERS, metadata={})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="cannot be written: No space left"):
        save_model(path, PARAMETERS, metadata={})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        save_model(tmp_path / "no" / "model.safetensors", PARAMETERS, metadata={})


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64, None])
def test_a_missing_or_damaged_model_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable model file"):
        load_model(path)


def test_a_truncated_model_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, PARAMETERS, metadata={})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a readable model file"):
        load_model(path)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"ppfl_order": "["}, {"ppfl_order": "3"}, {"ppfl_order": '["w", "w"]'}],
)
def test_a_model_file_without_a_usable_order(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(1, np.float32)}, path, metadata=metadata)
    with pytest.raises(ModelError, match="order of its tensors") as caught:
        load_model(path)
    assert caught.value.hint


def test_a_model_file_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    order = {"ppfl_order": json.dumps(["w"])}
    safetensors.numpy.save_file({"w": np.zeros(1, np.float64)}, path, metadata=order)
    with pytest.raises(ModelError, match="w: expected float32, got float64"):
        load_model(path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (torch.bfloat16, "bfloat16"),
        (torch.float8_e4m3fn, "float8_e4m3"),
        (torch.float16, "float16"),
        (torch.int64, "i64"),
    ],
)
def test_a_model_file_of_types_that_numpy_has_or_lacks(
    tmp_path: Path, kind: torch.dtype, told: str
) -> None:
    path = tmp_path / "model.safetensors"
    order = {"ppfl_order": json.dumps(["w"])}
    safetensors.torch.save_file({"w": torch.zeros(1).to(kind)}, path, metadata=order)
    with pytest.raises(ModelError, match=f"w: expected float32, got {told}$"):
        load_model(path)


def test_tensors_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    array = np.arange(4, dtype=np.float16)
    np.savez(tmp_path / "w.npz", w=array)
    safetensors.numpy.save_file({"w": array}, tmp_path / "w.safetensors")
    for suffix in ("pth", "pt"):
        torch.save({"w": torch.from_numpy(array)}, tmp_path / f"w.{suffix}")
    for path in tmp_path.iterdir():
        tensors = read_tensors(path)
        assert list(tensors) == ["w"]
        np.testing.assert_array_equal(tensors["w"].numpy(), array)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth", "pt"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + b"\0" * 60, None])
def test_missing_or_damaged_weights(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"w.{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="not a readable file of weights"):
        read_tensors(path)


def _damaged_stream(path: Path) -> None:
    np.savez_compressed(path, w=np.arange(400, dtype=np.float32))
    content = bytearray(path.read_bytes())
    name, extra = content[26], content[28]  # their lengths
    content[30 + name + extra] = 7  # a block of a type that there is not
    path.write_bytes(content)


def _damaged_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00\x05\x00{(L,\n")


def _empty_stack(path: Path) -> None:
    path.write_bytes(b"\x80\x02.")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("w.npz", _damaged_stream),
        ("w.npz", _damaged_header),
        ("w.pth", _empty_stack),
    ],
)
def test_whatever_a_reader_of_damaged_weights_raises(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path / name)
    with pytest.raises(ModelError, match=r"not a readable file of weights: ."):
        read_tensors(tmp_path / name)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Evil()}, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", w=np.array([Evil()], dtype=object))
    for name in ("w.pth", "w.npz"):
        with pytest.raises(ModelError, match="not a readable file of weights"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {"w": torch.zeros(1)}}, {1: torch.zeros(1)}]
)
def test_something_around_the_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="flat table of named tensors") as caught:
        read_tensors(tmp_path / "w.pth")
    assert caught.value.hint


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights in a \.h5 file") as caught:
        read_tensors(tmp_path / "w.h5")
    assert ".safetensors" in caught.value.hint
