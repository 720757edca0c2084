"""`ppfl reproduce`, small: real keys of 2048 bits, a small network, few phantoms."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ppfl.errors import SettingsError
from simulations.main import _app
from simulations.reproduction import command

_SMALL = (
    *("--set", "architecture=shufflenet_v2_x0_5"),
    *("--set", "rounds=1", "--set", "local_epochs=1", "--set", "key_bits=2048"),
)


def _reproduce(out: Path, *arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(
        _app, ["reproduce", "--quick", "--out", str(out), "--json", *_SMALL, *arguments]
    )
    assert result.exit_code == 0, result.output
    told: list[dict[str, object]] = json.loads(result.stdout)
    return told


@pytest.mark.slow
def test_rows_are_trained_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_QUICK_COUNTS", dict.fromkeys(command._QUICK_COUNTS, 24))
    monkeypatch.setattr(command, "_PUBLIC_COUNTS", dict.fromkeys(command._PUBLIC_COUNTS, 24))
    rows = {row["key"]: row for row in _reproduce(tmp_path, "--only", "a,b,c,e")}
    assert list(rows) == ["a", "b", "c", "e"]
    # a vault changes nothing, to the last bit
    assert rows["b"]["model_sha256"] == rows["a"]["model_sha256"] != rows["c"]["model_sha256"]
    assert rows["b"]["less_than_plain"] == {"value": 0, "low": 0, "high": 0}
    restored = {key: row["attacks"] for key, row in rows.items()}
    assert restored["a"] == {}
    assert restored["c"]["10 X-rays known"]["within_8"] > 0.99  # type: ignore[index]
    for key in ("b", "e"):
        assert abs(restored[key]["10 X-rays known"]["correlation"]) < 0.05  # type: ignore[index]
        leaks = rows[key]["leakage"]
        assert leaks["mutual_information_bits"] < leaks["null_mutual_information_bits_p99"] * 1.2  # type: ignore[index]
    page = (tmp_path / "reproduction.html").read_text()
    assert page.count("<figure>") == 2 + 5 + 6 + 5
    lines = (tmp_path / "reproduction.csv").read_text().splitlines()
    table = list(csv.DictReader(lines))
    assert [row["row"] for row in table] == list(rows)
    journals = {path: path.stat().st_mtime_ns for path in tmp_path.glob("?/journal.jsonl")}
    again = _reproduce(tmp_path, "--only", "a,b,c,e")
    assert {path: path.stat().st_mtime_ns for path in journals} == journals
    assert again == list(rows.values())


def test_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["--quick", "--only", "a,z"], "rows are a, b, c"),
        ([], "either --quick or --data"),
        (["--quick", "--data", str(tmp_path)], "either --quick or --data"),
    ):
        result = CliRunner().invoke(_app, ["reproduce", *arguments, "--out", str(tmp_path / "x")])
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)


def test_chance_is_what_answers_without_a_look_would_reach() -> None:
    generator = np.random.default_rng(1)
    labels = generator.choice(3, size=4000, p=[0.5, 0.3, 0.2])
    blind = np.eye(3, dtype=np.float32)[generator.choice(3, size=4000, p=[0.7, 0.2, 0.1])]
    found = command.Predictions(blind, labels, np.arange(4000).astype(str))
    assert command._chance(found) == pytest.approx(0.5 * 0.7 + 0.3 * 0.2 + 0.2 * 0.1, abs=0.02)
    assert found.correct.mean() == pytest.approx(command._chance(found), abs=0.02)
