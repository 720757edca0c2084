"""The coordinator's ServerApp."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import coordinator.server_app
from coordinator.rounds import Coordinator
from ppfl.errors import RunError, SettingsError
from ppfl.files import lock_file
from tests.simulations.tiny import prepare_once, tiny_scenario


def test_a_run_ends_with_its_own_error_also_where_no_report_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PPFL_RUN", str(tmp_path))
    context = cast("Any", SimpleNamespace(run_id=1, run_config={}))
    with pytest.raises(SettingsError, match=r"study\.toml"):
        coordinator.server_app._main(cast("Any", None), context)
    assert "no run has begun here" in caplog.text


def test_two_processes_do_not_run_one_study_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    second = Coordinator(cast("Any", None), folder)
    with lock_file(folder / ".lock"), pytest.raises(RunError, match="running already"):
        second.run()
    assert not (folder / "journal.jsonl").exists()  # the first one's, which knows of no second
