from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ppfl.errors import DataError, ModelError
from ppfl.learning.files import load_model, save_model
from ppfl.learning.models import build_model
from ppfl.learning.study_model import StudyModel
from ppfl.xray import write_phantoms
from ppfl.xray.pictures import Equalise, read_grey
from simulations.main import _app

_CLASSES = ("Normal", "Nodule")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = build_model("squeezenet1_1", classes=2, seed=1)
    path = tmp_path / "model.safetensors"
    StudyModel(network, "squeezenet1_1", _CLASSES, 64, (0.5, 0.5)).write(path, study="ab")
    return path


def _told(*arguments: str) -> str:
    return CliRunner().invoke(_app, arguments, catch_exceptions=False).stdout


def test_a_model_is_evaluated_on_a_folder(tmp_path: Path, model: Path) -> None:
    write_phantoms(tmp_path / "xrays", counts={"Normal": 3, "Nodule": 4}, size=64, seed=1)
    arguments = ("evaluate", "--model", str(model), "--data", str(tmp_path / "xrays"))
    told = json.loads(_told(*arguments, "--json"))
    assert told["images"] == 7
    assert set(told["classes"]) == set(_CLASSES)
    assert f"accuracy: {told['accuracy']:.4f}" in _told(*arguments)


def test_commands_say_what_is_of_no_class(tmp_path: Path, model: Path) -> None:
    xrays = tmp_path / "xrays"
    write_phantoms(xrays, counts={"Normal": 3, "Nodule": 4, "Effusion": 2}, size=64, seed=1)
    arguments = ["evaluate", "--model", str(model), "--data", str(xrays), "--json"]
    result = CliRunner().invoke(_app, arguments)
    assert json.loads(result.stdout)["images"] == 7
    assert result.stderr == f"{xrays}: left out, being of no class of the study: Effusion (2)\n"
    study = tmp_path / "study.toml"
    federation = '[federation]\nsites = ["a", "b"]\n'
    study.write_text(f'name = "s"\nclasses = ["Normal", "Nodule"]\n{federation}')
    told = _told("data", "check", str(xrays), "--study", str(study))
    assert "left out by the study: Effusion (2)" in told
    assert "left out" not in _told("data", "check", str(xrays))


def test_single_images_get_probabilities(tmp_path: Path, model: Path) -> None:
    write_phantoms(tmp_path / "xrays", counts={"Normal": 2, "Nodule": 0}, size=64, seed=1)
    files = sorted(map(str, (tmp_path / "xrays").rglob("*.png")))
    told = json.loads(_told("predict", "--model", str(model), *files, "--json"))
    assert [answer["image"] for answer in told] == files
    for answer in told:
        shares = answer["probabilities"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert shares[answer["class"]] == max(shares.values())
    odd = tmp_path / "[b]left[/c].png"
    odd.parent.mkdir(exist_ok=True, parents=True)
    odd.write_bytes(Path(files[0]).read_bytes())
    printed = _told("predict", "--model", str(model), str(odd))  # 80 columns: the path is folded
    assert "[b]left[/c].png" in "".join(line[1:].split(" ")[0] for line in printed.splitlines())
    assert all(f"{share:.3f}" in printed for share in told[0]["probabilities"].values())
    assert "not a medical device" in printed
    with pytest.raises(DataError, match="a folder"):
        _told("predict", "--model", str(model), str(tmp_path))


def test_a_model_of_equalised_xrays_is_asked_about_such(tmp_path: Path, model: Path) -> None:
    kept = replace(StudyModel.read(model), equalise="histogram")
    other = tmp_path / "equalised.safetensors"
    kept.write(other, study="ab")
    write_phantoms(tmp_path / "xrays", counts={"Normal": 2, "Nodule": 1}, size=64, seed=1)
    files = sorted((tmp_path / "xrays").rglob("*.png"))

    def expected(equalise: Equalise) -> list[list[float]]:
        pictures = [read_grey(path, size=64, equalise=equalise).picture for path in files]
        found: list[list[float]] = kept.predict(np.stack(list(map(np.asarray, pictures)))).tolist()
        return found

    told = json.loads(_told("predict", "--model", str(other), *map(str, files), "--json"))
    assert [list(answer["probabilities"].values()) for answer in told] == expected("histogram")
    assert expected("histogram") != expected("none")
    parameters, metadata = load_model(other)
    keep = {key: value for key, value in metadata.items() if key != "ppfl_order"}
    save_model(other, parameters, metadata=keep | {"equalise": "clahe"})
    with pytest.raises(ModelError, match="not the model of a study"):
        StudyModel.read(other)


def test_a_file_that_is_no_study_model_is_refused(tmp_path: Path, model: Path) -> None:
    parameters, metadata = load_model(model)
    other = tmp_path / "other.safetensors"
    save_model(other, parameters, metadata={})
    with pytest.raises(ModelError, match="not the model of a study"):
        StudyModel.read(other)
    name = next(iter(parameters))
    changed = {**parameters, name: parameters[name] + 1}
    keep = {key: value for key, value in metadata.items() if key != "ppfl_order"}
    save_model(other, changed, metadata=keep)
    with pytest.raises(ModelError, match="not those that were written"):
        StudyModel.read(other)
