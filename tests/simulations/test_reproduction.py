"""`ppfl reproduce`, small: real keys of 2048 bits, a small network, few phantoms."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from typer.testing import CliRunner

from ppfl.errors import RunError, SettingsError
from ppfl.learning.sources import ImageRecord, write_manifest
from simulations import prepare
from simulations.main import _app
from simulations.outcome import Predictions, prepare_or_resume
from simulations.reproduction import command, results
from simulations.reproduction.leaks import choose_public
from simulations.reproduction.rows import ROWS, row_scenario
from tests.simulations.tiny import tiny_scenario
from tests.vectors.make_vault import golden_key

# all but the last layer stay at the sites: whole networks are encrypted in test_in_process.py
_LOCAL = 'model.local_layers=["conv1", "stage2", "stage3", "stage4", "conv5"]'
_SMALL = (
    *("--jobs", "1"),  # in this process, whose keys are the test's
    *("--set", "architecture=shufflenet_v2_x0_5"),
    *("--set", "rounds=1", "--set", "local_epochs=1", "--set", "key_bits=2048"),
    *("--set", _LOCAL),
)


def _reproduce(out: Path, *arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(
        _app,
        ["reproduce", "--quick", "--out", str(out), "--json", *_SMALL, *arguments],
    )
    assert result.exit_code == 0, result.output
    told: list[dict[str, object]] = json.loads(result.stdout)
    return told


@pytest.mark.slow
def test_rows_are_trained_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # how many greys share a byte, and so what is restored, depends on the key
    monkeypatch.setattr(prepare, "generate_key", lambda bits: golden_key())
    monkeypatch.setattr(command, "_QUICK_COUNTS", dict.fromkeys(command._QUICK_COUNTS, 60))
    monkeypatch.setattr(command, "_PUBLIC_COUNTS", dict.fromkeys(command._PUBLIC_COUNTS, 20))
    rows = {row["key"]: row for row in _reproduce(tmp_path, "--only", "a,b,c,d,e,ch")}
    assert list(rows) == ["a", "b", "c", "d", "e", "ch"]
    # a vault changes nothing, to the last bit
    assert rows["b"]["model_sha256"] == rows["a"]["model_sha256"] != rows["c"]["model_sha256"]
    assert rows["b"]["less_than_plain"] == {"value": 0, "low": 0, "high": 0}
    restored: dict[str, Any] = {key: row["attacks"] for key, row in rows.items()}
    assert restored["a"] == {}
    for key in ("c", "ch"):
        # frequencies put the greys in order, but may stretch them
        for name, attack in restored[key].items():
            assert attack["correlation"] > (0.9 if name == "frequencies" else 0.97), (key, name)
    assert restored["d"]["10 X-rays known"]["correlation"] > 0.3
    for key in ("b", "e"):
        # a plain guess would correlate more: nothing is restored. (The frequency attack takes, of
        # many orders, the likest to public X-rays, so that even of noise it makes 0.03 to 0.1.)
        for name, attack in restored[key].items():
            bound = 0.2 if name == "frequencies" else 0.1
            assert abs(attack["correlation"]) < bound, (key, name)
        leaks: Any = rows[key]["leakage"]
        spread = leaks["null_mutual_information_bits_p99"] - leaks["null_mutual_information_bits"]
        excess = leaks["mutual_information_bits"] - leaks["null_mutual_information_bits"]
        assert excess < 3 * spread + 0.001, key
    page = (tmp_path / "reproduction.html").read_text()
    assert page.count("<figure>") == 2 + 5 + 6 + 5 + 5 + 6
    lines = (tmp_path / "reproduction.csv").read_text().splitlines()
    assert [row["row"] for row in csv.DictReader(lines)] == list(rows)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("?*/*.json*")}
    again = _reproduce(tmp_path, "--only", "c")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again == list(rows.values())  # the page shows all rows that are done
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        told = ["reproduce", "--quick", "--out", str(tmp_path), *_SMALL, "--only", "c"]
        full = CliRunner().invoke(_app, told)
    assert isinstance(full.exception, RunError)
    assert (tmp_path / "reproduction.html").read_text() == page
    changed = [
        "reproduce",
        "--quick",
        "--out",
        str(tmp_path),
        "--only",
        "a",
        *_SMALL,
    ]
    result = CliRunner().invoke(_app, [*changed, "--set", "seed=1"])
    assert isinstance(result.exception, RunError)
    assert "other settings" in str(result.exception)
    # a new row would be subtracted from one that saw other pictures
    other = [*changed, "--only", "f", "--set", "images.size=48"]
    result = CliRunner().invoke(_app, other)
    assert isinstance(result.exception, SettingsError)
    assert "a: holds a row that was trained with other settings" in str(result.exception)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*/*.npz")} == {0o600}


def test_a_row_cut_off_while_it_was_prepared_begins_anew(tmp_path: Path) -> None:
    scenario = tiny_scenario("shared")
    (tmp_path / "a" / "sites" / "north").mkdir(parents=True)
    (tmp_path / "a" / "sites" / "north" / "private.key").write_text("of a key that is lost")
    prepare_or_resume(scenario, tmp_path / "a")
    assert (tmp_path / "a" / "study.toml").exists()


@pytest.mark.parametrize("spelled", ["Viral_Pneumonia", "viral pneumonia"])
def test_the_attacker_has_no_xray_and_no_patient_of_the_study(tmp_path: Path, spelled: str) -> None:
    records = []
    for label, numbers in ((spelled, range(5)), ("Other", range(10))):
        for number in numbers:
            records.append(ImageRecord(tmp_path / f"{label}{number}.png", label, f"p{number}"))
            records[-1].path.touch()
    write_manifest(tmp_path / "manifest.csv", records)
    chosen = choose_public(tmp_path, ["Viral_Pneumonia"], seed=1)
    assert {(r.label, r.group) for r in chosen} == {("Other", f"p{i}") for i in range(5, 10)}


def test_settings_that_are_changed_leave_a_row_what_it_is(tmp_path: Path) -> None:
    rows = {row.key: row for row in ROWS}
    changes = ("images.size=64", "images.cipher=none")
    for key, size, cipher in (("a", 64, "none"), ("e", 32, "fresh_randomness")):
        row = row_scenario(rows[key], data=tmp_path, quick=False, changes=changes)
        assert (row.study["images"]["size"], row.study["images"].get("cipher")) == (size, cipher)


def test_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (["--quick", "--only", "a,z"], "--only z: rows are a, b, c"),
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
    found = Predictions(blind, labels, np.arange(4000).astype(str))
    assert results._chance(found) == pytest.approx(0.5 * 0.7 + 0.3 * 0.2 + 0.2 * 0.1, abs=0.02)
    assert found.correct.mean() == pytest.approx(results._chance(found), abs=0.02)
