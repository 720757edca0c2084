"""The coordinator's ServerApp."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import coordinator.server_app
from ppfl.errors import SettingsError


def test_a_run_ends_with_its_own_error_also_where_no_report_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PPFL_RUN", str(tmp_path))
    context = cast("Any", SimpleNamespace(run_id=1, run_config={}))
    with pytest.raises(SettingsError, match=r"study\.toml"):
        coordinator.server_app._main(cast("Any", None), context)
    assert "no run has begun here" in caplog.text
