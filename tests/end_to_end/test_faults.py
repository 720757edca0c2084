"""A study whose processes are killed, with real ones; `python -m tests.faults` does all faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tests.live.hurry
from ppfl.federation.journal import StudyStarted
from tests.faults.run import draft
from tests.live.check import check_model, replay_of
from tests.live.federation import COORDINATOR, LiveFederation, prepare

_LONG_S = 300.0


@pytest.mark.slow
def test_a_study_outlives_its_superlink_and_a_clientapp_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry = str(next(iter(tests.live.hurry.__path__)))
    paths = os.pathsep.join(filter(None, [hurry, os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setenv("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.1")
    study = draft(deadline_s=_LONG_S, rounds=1, sites=("alpha", "beta"))
    prepared = prepare(tmp_path / "prepared", study)
    with LiveFederation(prepared, tmp_path / "live") as live:
        live.start_all()
        live.wait_for(lambda: live.is_in("beta", "train", 1), seconds=_LONG_S)
        live.strike("beta", "clientapp")
        live.strike(COORDINATOR, "superlink")
        live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S)
        assert check_model(live, replay_of(prepared, cache=tmp_path / "cache")) == 1
        assert sum(isinstance(event, StudyStarted) for event in live.events()) == 2
        assert live.starts(COORDINATOR)["superlink"] == 2
