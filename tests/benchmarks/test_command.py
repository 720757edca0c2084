from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import command
from benchmarks.results import Skipped
from ppfl.errors import SettingsError
from simulations.main import _app
from tests.benchmarks.made_up import made_up_bench, made_up_scaling


def test_the_command_leaves_figures_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_scaling", lambda **_: made_up_scaling())
    cheap = ("--systems", "masks,float32", "--architecture", "squeezenet1_1", "--runs", "1")
    result = CliRunner().invoke(_app, ["bench", *cheap, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "float32 in the clear" in result.stdout
    assert "Measuring float32" in result.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in figures["measured"]] == ["masks", "float32"]
    assert all(row["seal"]["cpu_s"] > 0 for row in figures["measured"])
    assert figures["measured"][1]["up_bytes"] == 4 * figures["parameters"]
    assert "pairwise masks" in (tmp_path / "bench.md").read_text()
    for name in ("bench.svg", "scaling.svg"):
        assert "<svg" in (tmp_path / name).read_text()


def test_json_is_all_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.name: row for row in made_up_bench().measured}
    rows |= {"tenseal-ckks": Skipped("tenseal-ckks", "TenSEAL", "it is not installed")}
    monkeypatch.setattr(command, "measure_alone", lambda candidate, **_: rows[candidate.name])
    options = [
        "--systems",
        "ppfl-gmp,tenseal-ckks",
        "--no-scaling",
        "--json",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(_app, ["bench", *options])
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["scaling"] is None
    assert table["skipped"][0]["reason"] == "it is not installed"
    assert "skipped: it is not installed" in result.stderr
    assert not (tmp_path / "scaling.svg").exists()


def test_an_unknown_system_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = CliRunner().invoke(_app, ["bench", "--systems", "x", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, SettingsError)
    assert not (tmp_path / "out").exists()
