"""A study whose processes are killed, with real ones; `python -m tests.faults` does all faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppfl.federation.journal import StudyStarted
from tests.faults.run import draft
from tests.live.check import check_model, replay_of
from tests.live.federation import COORDINATOR, LiveFederation, prepare

_LONG_S = 300.0


@pytest.mark.faults
def test_a_study_outlives_its_superlink_its_serverapp_and_the_gateway(tmp_path: Path) -> None:
    study = draft(deadline_s=_LONG_S, rounds=1, sites=("alpha", "beta"))
    prepared = prepare(tmp_path / "prepared", study)
    with LiveFederation(prepared, tmp_path / "live") as live:
        live.start_all()
        live.wait_for(lambda: live.is_in("beta", "train", 1), seconds=_LONG_S)
        live.strike(COORDINATOR, "gateway")
        live.strike(COORDINATOR, "superlink")  # the ServerApp is of no use without it, and ends too
        live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S)
        assert check_model(live, replay_of(prepared, cache=tmp_path / "cache")) == 1
        assert sum(isinstance(event, StudyStarted) for event in live.events()) == 2
        starts = live.starts(COORDINATOR)
        assert (starts["superlink"], starts["gateway"]) == (2, 2)
