"""`ppfl coordinator status` and `stop`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flwr.proto.control_pb2 import ListNodesResponse
from flwr.proto.node_pb2 import NodeInfo
from typer.testing import CliRunner

import coordinator.status
import coordinator.status_command
from coordinator.control import Control
from coordinator.status import read_progress, read_status
from ppfl.errors import RunError
from ppfl.federation import Journal
from ppfl.federation.journal import (
    Event,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.running import Running
from ppfl.settings import CoordinatorFile, Study
from ppfl.uploads import Uploads, read_uploads
from simulations.main import _app
from tests.deployed import SITES, draft


def _started(after: int) -> StudyStarted:
    return StudyStarted(
        run="r",
        study="tiny",
        study_fingerprint="0" * 64,
        classes=("Normal", "Effusion"),
        custody="shared",
        suite="packed",
        protection="Paillier",
        key_fingerprint="0" * 64,
        key_bits=3072,
        sites=SITES,
        minimum_sites=2,
        deadline_s=60,
        rounds=10,
        values=1,
        update_bytes=1,
        versions={},
        resumed_after=after,
    )


def _answered(site: str, number: int) -> SiteAnswered:
    return SiteAnswered(round=number, site=site, bytes_up=1, bytes_down=1, seconds={}, clipped=0)


def _closed(number: int) -> RoundClosed:
    return RoundClosed(round=number, sites=SITES, seconds=1, total_sha256="0" * 64)


_FIRST = (
    _started(0),
    *(SiteEnrolled(site=site, bytes_up=1) for site in SITES),
    RoundStarted(round=1, sites=SITES),
    *(_answered(site, 1) for site in SITES),
    _closed(1),
    RoundStarted(round=2, sites=SITES),
    _answered("alpha", 2),
)
_LOST = (
    SiteFailed(round=2, site="beta", code="deadline", sentence="Late."),
    SiteFailed(round=2, site="node 7", code="wrong-site", sentence="Who?"),
    StudyFailed(round=1, code="quorum", sentence="One of two."),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "coordinator.toml").write_text(CoordinatorFile(host="a").to_toml())
    (tmp_path / "study.toml").write_text(draft().to_toml())
    (tmp_path / "run").mkdir()
    return tmp_path


def _write(folder: Path, *events: Event) -> None:
    for event in events:
        Journal(folder / "run" / "journal.jsonl").write(event)


def _status(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(_app, ["coordinator", "status", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_study_is_followed_from_draft_to_end(folder: Path) -> None:
    assert _status(folder)["state"] == "not begun"
    _write(folder, *_FIRST)
    told = _status(folder)
    assert (told["state"], told["round"], told["complete"], told["rounds"]) == ("stopped", 2, 1, 10)
    assert told["sites"] == [
        {"name": "alpha", "connected": None, "last": "answered in round 2", "sending": None},
        {"name": "beta", "connected": None, "last": "answered in round 1", "sending": None},
    ]
    _write(folder, SiteAskedAgain(round=2, site="beta", code="flower-5"))
    assert _status(folder)["sites"][1]["last"] == "lost in round 2, asked again: flower-5"
    _write(folder, *_LOST)
    told = _status(folder)
    assert told["failure"] == "quorum: One of two."
    assert [site["last"] for site in told["sites"]] == [
        "answered in round 2",
        "failed in round 2: deadline",
    ]
    _write(folder, _started(1))
    progress = read_progress(Study.read(folder / "study.toml"), folder / "run")
    assert (progress.round, progress.complete, progress.failure) == (1, 1, "")
    _write(folder, StudyClosed(rounds=10, sites=SITES, model_sha256="0" * 64, seconds=1))
    assert _status(folder)["state"] == "closed"


def test_what_runs_and_who_is_connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = {"name": "superlink", "state": "running", "pid": 7, "starts": 2}
    running = Running(5, (program, program | {"name": "gateway", "state": "ended", "pid": None}))
    monkeypatch.setattr(coordinator.status, "read_running", lambda _: running)
    monkeypatch.setattr(coordinator.status, "_connected", lambda _: frozenset({"alpha"}))
    _write(folder, *_FIRST, *_LOST)
    uploads = Uploads(folder / "run" / "uploads.json")
    uploads.begin("beta")
    last = read_uploads(folder / "run" / "uploads.json")["beta"].last
    monkeypatch.setattr(coordinator.status, "time", Mock(time=lambda: last + 3))
    result = CliRunner().invoke(_app, ["coordinator", "status", str(folder)])
    assert result.stdout.splitlines() == [
        "study tiny: running",
        "rounds: 1 of 10 complete, round 2 begun",
        "the last run ended: quorum: One of two.",
        "site alpha: connected; answered in round 2",
        "site beta: not connected; failed in round 2: deadline; "
        "sends, 0.0 MB so far, the last of it 3 s ago",
        "superlink: running, process 7, started 2 times",
        "gateway: ended, started 2 times",
    ]
    told = _status(folder)
    assert (told["pid"], [site["connected"] for site in told["sites"]]) == (5, [True, False])


class _Asked:
    """Control's place."""

    away = closed = False

    def __init__(self, *_: object) -> None:
        pass

    def connected(self) -> set[str]:
        if _Asked.away:
            raise RunError("SuperLink is away")
        return {"beta"}

    def close(self) -> None:
        _Asked.closed = True


def test_superlink_says_who_is_connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator.status, "Control", _Asked)
    monkeypatch.setattr(coordinator.status, "read_running", lambda _: Running(5, ()))
    settings = CoordinatorFile.read(folder / "coordinator.toml")
    assert read_status(settings, folder).connected == {"beta"}
    assert _Asked.closed
    monkeypatch.setattr(_Asked, "away", True)
    assert read_status(settings, folder).connected is None


def test_only_sites_that_are_online_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [NodeInfo(name=name, status=name) for name in ("online", "offline", "registered")]

    class Client:
        def ListNodes(self, _: object) -> ListNodesResponse:
            return ListNodesResponse(nodes_info=nodes)

    control = Control.__new__(Control)
    control._client = Client()  # type: ignore[assignment]
    assert control.connected() == {"online"}


def test_stop_ends_what_runs_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        coordinator.status_command,
        "stop_running",
        lambda place, *, patience_s: bool(asked.append(place)) or patience_s > 30,
    )
    result = CliRunner().invoke(_app, ["coordinator", "stop", str(folder)])
    assert (result.exit_code, result.stdout) == (0, "was running: True\n")
    assert asked == [folder / "flower"]


def test_stop_where_nothing_runs_is_well(folder: Path) -> None:
    result = CliRunner().invoke(_app, ["coordinator", "stop", str(folder), "--json"])
    assert (result.exit_code, result.stdout) == (0, '{"was_running": false}\n')
