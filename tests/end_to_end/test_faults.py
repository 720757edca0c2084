"""A study whose processes are killed, with real ones; `python -m tests.faults` does all faults."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ppfl.federation.journal import RoundStarted, StudyStarted
from ppfl.running import read_running
from sites.flower import flower_program
from tests.faults.run import draft
from tests.live.check import check_model, replay_of
from tests.live.federation import COORDINATOR, LiveFederation, prepare

_LONG_S = 1200.0  # a busy machine; what is waited for takes a minute
_SITES = ("alpha", "beta")


@pytest.mark.faults
def test_a_study_outlives_its_superlink_its_serverapp_and_the_gateway(tmp_path: Path) -> None:
    study = draft(deadline_s=_LONG_S, rounds=1, sites=_SITES)
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


@pytest.mark.faults
def test_status_and_stop_of_a_coordinator_in_the_middle_of_its_study(tmp_path: Path) -> None:
    study = draft(deadline_s=_LONG_S, rounds=2, sites=_SITES)
    prepared = prepare(tmp_path / "prepared", study)
    with LiveFederation(prepared, tmp_path / "live") as live:
        live.start_all()
        live.wait_for(lambda: live.is_in("beta", "train", 2), seconds=_LONG_S)
        beta = live.strike("beta", "clientapp", signal.SIGSTOP)  # or round 2 might end before us
        told = _coordinator(live, "status")
        assert (told["state"], told["complete"], told["rounds"]) == ("running", 1, 2)
        assert (told["round"], told["failure"]) == (2, "")
        assert [site["name"] for site in told["sites"]] == list(_SITES)
        assert all(site["connected"] for site in told["sites"])
        assert {program["state"] for program in told["programs"]} == {"running"}
        ran = [live.find(COORDINATOR, program["name"]) for program in told["programs"]]

        assert _coordinator(live, "stop") == {"was_running": True}
        assert live.wait_end(COORDINATOR) == 0
        assert read_running(live.deployed.coordinator / "flower").pid is None
        assert not any(process is not None and process.is_running() for process in ran)
        assert _coordinator(live, "status")["state"] == "stopped"
        assert _coordinator(live, "stop") == {"was_running": False}

        with suppress(psutil.NoSuchProcess):
            beta.resume()
        live.start(COORDINATOR)
        live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S)
        check_model(live, replay_of(prepared, cache=tmp_path / "cache"))
        began = [event.resumed_after for event in live.events() if isinstance(event, StudyStarted)]
        rounds = [event.round for event in live.events() if isinstance(event, RoundStarted)]
        assert (began, rounds) == ([0, 1], [1, 2, 2])
        live.wait_end(COORDINATOR)
        assert _coordinator(live, "status")["state"] == "closed"


def _coordinator(live: LiveFederation, command: str) -> dict[str, Any]:
    """What `ppfl coordinator` says, given from another terminal."""
    place = str(live.deployed.coordinator)
    asked = [flower_program("ppfl"), "coordinator", command, place, "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_LONG_S)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told
