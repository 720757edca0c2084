from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppfl.errors import ModelError
from ppfl.learning.files import save_model
from ppfl.learning.models import build_model, get_parameters
from ppfl.xray import write_phantoms
from simulations.main import _app


def test_a_model_is_evaluated_on_a_folder(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "xrays", counts={"Normal": 3, "Nodule": 4}, size=64, seed=1)
    model = build_model("squeezenet1_1", classes=2, seed=1)
    metadata = {
        "architecture": "squeezenet1_1",
        "classes": '["Normal", "Nodule"]',
        "size": "64",
        "normalisation": "[0.5, 0.5]",
    }
    parameters = get_parameters(model, batch_norm="average")
    save_model(tmp_path / "model.safetensors", parameters, metadata=metadata)
    arguments = ["evaluate", "--model", str(tmp_path / "model.safetensors")]
    arguments += ["--data", str(tmp_path / "xrays"), "--json"]
    told = json.loads(CliRunner().invoke(_app, arguments).stdout)
    assert told["images"] == 7
    assert set(told["classes"]) == {"Normal", "Nodule"}
    save_model(tmp_path / "other.safetensors", parameters, metadata={})
    arguments[2] = str(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not the model of a study"):
        CliRunner().invoke(_app, arguments, catch_exceptions=False)
