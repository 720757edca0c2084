"""Files that hold a model's tensors, and the digest by which two parties compare them.

torch is loaded for pretrained weights only: the coordinator reads parameters as arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ppfl.errors import ModelError
from ppfl.files import replace_private

if TYPE_CHECKING:
    from torch import Tensor

_ORDER = "ppfl_order"  # safetensors sorts its tensors; the digest and the layout need their order


def save_model(
    path: Path, parameters: Mapping[str, NDArray[np.float32]], *, metadata: Mapping[str, str]
) -> None:
    """Write parameters to a safetensors file that only its owner can read.

    The file appears whole or not at all. ``metadata`` may use any key but ``ppfl_order``.

    Raises:
        ModelError: the file cannot be written.
    """
    tensors = {
        name: np.asarray(array, dtype="<f4", order="C") for name, array in parameters.items()
    }
    header = {**metadata, _ORDER: json.dumps(list(parameters))}
    try:
        replace_private(path, [safetensors.numpy.save(tensors, metadata=header)])
    except OSError as error:
        raise ModelError(f"{path}: the model cannot be written: {error.strerror}") from None


def load_model(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """The parameters, in the order in which they were saved, and the metadata beside them.

    Raises:
        ModelError: the file is missing, damaged, or not one of ``save_model``.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {}
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if kind != "F32":  # numpy cannot even load all others
                    told = kind.lower().replace("f", "float", 1)
                    raise ModelError(f"{path}: {name}: expected float32, got {told}")
                tensors[name] = file.get_tensor(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not a readable model file: {error}") from None
    try:
        order = json.loads(metadata.pop(_ORDER, "null"))
    except json.JSONDecodeError:
        order = None
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(tensors):
        raise ModelError(
            f"{path}: the file does not tell the order of its tensors",
            hint="only a model saved by ppfl can be loaded here",
        )
    return {name: tensors[name] for name in order}, metadata


def parameters_sha256(parameters: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 in hexadecimal over the parameters in their order.

    For each tensor: the JSON of ``[name, shape]``, a line feed, the values as little-endian
    float32 in C order. Any change of a name, a shape, the order or one bit changes the digest.
    """
    digest = hashlib.sha256()
    for name, array in parameters.items():
        digest.update(json.dumps([name, list(array.shape)]).encode() + b"\n")
        digest.update(np.asarray(array, dtype="<f4", order="C").tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of pretrained weights: ``.npz``, ``.safetensors``, ``.pth`` or ``.pt``.

    Nothing in the file is executed: a pickle that holds more than tensors is refused.

    Raises:
        ModelError: the file is missing, damaged, of another kind, or no flat table of tensors.
    """
    import safetensors.torch
    import torch

    try:
        match path.suffix:
            case ".npz":
                # numpy leaves a file open that it cannot read, if it opened it itself.
                with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            case ".safetensors":
                tensors = safetensors.torch.load_file(path)
            case ".pth" | ".pt":
                tensors = torch.load(path, map_location="cpu", weights_only=True)
            case other:
                raise ModelError(
                    f"{path}: weights in a {other or 'nameless'} file cannot be read",
                    hint="give a .npz, .safetensors, .pth or .pt file",
                )
    except ModelError:
        raise
    except Exception as error:  # numpy and torch raise almost anything
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path}: not a readable file of weights: {reason}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(t, torch.Tensor) for name, t in tensors.items()
    ):
        raise ModelError(
            f"{path}: expected a flat table of named tensors (a state dict), got something else",
            hint="save model.state_dict() and nothing around it",
        )
    return tensors
