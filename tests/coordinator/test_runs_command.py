"""Runs listed, shown and compared on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.runs_command import runs
from ppfl.errors import RunError, SettingsError
from ppfl.settings import Study
from tests.coordinator.dashboard.studies import CLASSES, SITES, started, study, write, write_fast


def _run(folder: Path, *, events: int | None = None, **training: Any) -> Path:
    table = {
        "name": "thorax",
        "classes": CLASSES,
        "training": training,
        "federation": {"sites": SITES},
    }
    settings = Study.model_validate(table)
    begun, *rest = list(study())[:events]
    write(folder, begun.model_copy(update={"study_fingerprint": settings.fingerprint()}), *rest)
    (folder / "study.toml").write_text(settings.to_toml())
    return folder


def _ask(*arguments: object) -> str:
    result = CliRunner().invoke(runs, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_folder_of_runs_is_listed_with_how_far_each_is(tmp_path: Path) -> None:
    _run(tmp_path / "whole")
    _run(tmp_path / "begun", events=9)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_text('{"version": 9, "event": "x"}\n')
    rows = {row["name"]: row for row in json.loads(_ask("list", tmp_path, "--json"))}
    assert (rows["whole"]["state"], rows["whole"]["complete"]) == ("closed", 4)
    assert (rows["begun"]["state"], rows["begun"]["complete"]) == ("running", 1)
    text = _ask("list", tmp_path)
    assert "4 of 4" in text
    assert "torn" in text
    assert "line 1" in text  # what is wrong with it


def test_of_a_long_journal_the_list_is_made_from_its_end(tmp_path: Path) -> None:
    sites = [f"hospital-{number:02d}" for number in range(50)]
    write_fast(tmp_path / "long", study(sites=sites, rounds=100))
    (row,) = json.loads(_ask("list", tmp_path, "--json"))
    assert row["read"] < 0.5
    told = {name: row[name] for name in ("state", "complete", "rounds", "sites", "trouble")}
    assert told == {"state": "closed", "complete": 100, "rounds": 100, "sites": 50, "trouble": ""}
    assert row["accuracy"] is not None


def test_a_run_is_listed_by_its_whole_name_and_its_test_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _run(tmp_path / "a-run-with-a-name-of-some-length")
    lines = _ask("list", tmp_path).splitlines()
    width = lines[1].index("study")
    assert "".join(line[:width].strip() for line in lines[3:]) == "a-run-with-a-name-of-some-length"
    assert "0.856" in lines[3]  # as `runs show` has it


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    assert "no runs" in _ask("list", tmp_path)


def test_a_run_is_shown_with_its_rounds_and_settings(tmp_path: Path) -> None:
    folder = _run(tmp_path / "one", learning_rate=3e-4)
    text = _ask("show", folder)
    assert "test: accuracy 0.856 on 300 images" in text
    assert "0.0003" in text
    found = json.loads(_ask("show", folder, "--json"))
    assert len(found["rounds"]) == 4
    assert found["settings"]["training.learning_rate"] == 3e-4


def test_runs_are_compared_in_figures_and_in_the_settings_that_differ(tmp_path: Path) -> None:
    one = _run(tmp_path / "one")
    other = _run(tmp_path / "other", events=9, learning_rate=3e-4, rounds=4)
    found = json.loads(_ask("compare", one, other, "--json"))
    assert found["settings"] == {"training.rounds": [10, 4], "training.learning_rate": [1e-3, 3e-4]}
    assert found["versions"] == {}
    figures = found["figures"]
    assert figures["rounds"] == [4, 1]
    assert figures["measured on"] == ["test", None]
    assert figures["MB up"] == [28.8, 7.2]
    assert figures["train, s"] == [16.0, 16.0]
    assert figures["evaluate, s"] == [0.5, 0.5]
    assert figures["a round, s"] == [20.0, 20.0]
    assert figures["model"] == ["ab" * 6, None]
    assert "AUROC of COVID" in _ask("compare", one, other)


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    assert "equal settings" in _ask("compare", _run(tmp_path / "a"), _run(tmp_path / "b"))


def test_settings_of_another_study_are_not_taken_for_the_runs(tmp_path: Path) -> None:
    changed, gone = _run(tmp_path / "changed"), _run(tmp_path / "gone")
    (gone / "study.toml").unlink()
    text = (changed / "study.toml").read_text()
    (changed / "study.toml").write_text(text.replace("seed = 2022", "seed = 1"))
    assert "not the study that the journal names" in _ask("show", changed)
    assert "is missing" in _ask("show", gone)
    assert _ask("show", gone).rstrip().endswith("no settings")  # and no empty table of them
    assert json.loads(_ask("show", gone, "--json"))["settings"] == {}
    for other in (changed, gone):
        told = _ask("compare", _run(tmp_path / "one"), other)
        assert "no settings" in told
        assert "equal settings" not in told


def test_of_several_runs_in_a_journal_the_last_is_shown(tmp_path: Path) -> None:
    folder = _run(tmp_path / "twice")
    _, *rest = study()
    write(folder, started(run="a2"), *rest)
    assert "the last of 2 runs" in _ask("show", folder)


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_missing_folder_is_named(command: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="gone"):
        _ask(command, tmp_path / "gone")


def test_one_run_has_nothing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two runs"):
        _ask("compare", tmp_path)
