"""What the coordinator asks of its SuperLink, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsResponse, RegisterNodeRequest, StopRunRequest
from starlette.types import Receive, Scope, Send

import coordinator.serve
from coordinator.control import Control
from coordinator.serve import CoordinatorPlace, _Study, coordinator_programs
from ppfl.errors import (
    DiskFullError,
    KeyMaterialError,
    PpflError,
    RunError,
    SpoiledTotalError,
    StudyMismatchError,
)
from ppfl.federation import Journal
from ppfl.federation.journal import (
    INTERNAL,
    Event,
    RoundClosed,
    RoundStarted,
    StudyClosed,
    StudyFailed,
)
from sites.flower import flower_environment, write_secret
from tests.coordinator.certificates import openssh_line, write_certificates
from tests.coordinator.gateway_in_threads import serving


class _BreakOff(Protocol):
    def __call__(self, *events: Event) -> float: ...


class _Link:
    """SuperLink's place: it answers with what it is told."""

    status, body = 200, b""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.asked.append((scope["path"], body))
        kind = [(b"content-type", b"application/x-protobuf")]
        await send({"type": "http.response.start", "status": self.status, "headers": kind})
        await send({"type": "http.response.body", "body": self.body})


@pytest.fixture
def link(tmp_path: Path) -> Iterator[tuple[_Link, Control]]:
    write_certificates(tmp_path)
    link = _Link()
    config = uvicorn.Config(
        link,
        port=0,
        lifespan="off",
        log_config=None,
        ws="none",
        ssl_certfile=str(tmp_path / "server.crt"),
        ssl_keyfile=str(tmp_path / "server.key"),
    )
    server = uvicorn.Server(config)
    with serving(server, None):
        port = server.servers[0].sockets[0].getsockname()[1]
        control = Control(port, tmp_path / "ca.crt")
        yield link, control
        control.close()


def test_sites_are_registered_under_their_names_once_and_again(
    link: tuple[_Link, Control],
) -> None:
    superlink, control = link
    keys = {name: openssh_line(ec.generate_private_key(ec.SECP384R1())) for name in "ab"}
    for superlink.status in (200, 412):  # 412: known already
        control.register(keys)
    asked = [RegisterNodeRequest.FromString(body) for _, body in superlink.asked]
    assert [request.name for request in asked] == ["a", "b"] * 2
    assert asked[0].public_key.startswith(b"-----BEGIN PUBLIC KEY-----")
    superlink.status = 500
    with pytest.raises(RunError, match="did not register site a"):
        control.register(keys)
    with pytest.raises(KeyMaterialError):
        control.register({"a": "no key"})


def test_a_run_that_superlink_does_not_know_has_finished(link: tuple[_Link, Control]) -> None:
    superlink, control = link
    told = ListRunsResponse()
    told.run_dict[5].status.status = "running"
    superlink.body = told.SerializeToString()
    assert not control.has_finished(5)
    assert control.has_finished(6)
    told.run_dict[5].status.status = "finished"
    superlink.body = told.SerializeToString()
    assert control.has_finished(5)


def test_runs_that_nobody_took_up_are_stopped(link: tuple[_Link, Control]) -> None:
    superlink, control = link
    told = ListRunsResponse()
    for run, status in ((5, "finished"), (6, "pending"), (7, "running")):
        told.run_dict[run].status.status = status
    superlink.body = told.SerializeToString()
    assert control.stop_unfinished() == [6, 7]
    stopped = [StopRunRequest.FromString(body).run_id for _, body in superlink.asked[1:]]
    assert stopped == [6, 7]


def test_a_superlink_that_is_away_is_said(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    control = Control(1, tmp_path / "ca.crt")
    with pytest.raises(RunError, match="did not list its runs: ConnectError"):
        control.has_finished(1)
    control.close()


class _Runs:
    """Control's place: runs end when they are told to."""

    def __init__(self, *_: Any) -> None:
        self.did: list[str] = []
        self.away = self.finished = False

    def register(self, sites: dict[str, str]) -> None:
        self._do(f"register {', '.join(sites)}")

    def stop_unfinished(self) -> list[int]:
        self._do("stop others")
        return [3]

    def start_run(self, _bundle: bytes) -> int:
        self._do("start")
        return 7

    def has_finished(self, _run: int) -> bool:
        self._do("look")
        return self.finished

    def close(self) -> None:
        self.did.append("close")

    def _do(self, what: str) -> None:
        if self.away:
            raise RunError("SuperLink is away")
        self.did.append(what)


def _place(folder: Path) -> CoordinatorPlace:
    (folder / "flower").mkdir(exist_ok=True)
    return CoordinatorPlace(
        folder=folder / "flower",
        run=folder,
        listen="127.0.0.1",
        port=1,
        superlink_port=2,
        certificate=folder / "server.crt",
        certificate_key=folder / "server.key",
        authority=folder / "ca.crt",
        journal_key=folder / "journal.key",
        sites={"a": "key a", "b": "key b"},
    )


def test_a_study_is_taken_up_again_until_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, now, listens = _Runs(), [0.0], [False]
    monkeypatch.setattr(coordinator.serve, "Control", lambda *_: runs)
    monkeypatch.setattr(coordinator.serve, "_listens", lambda _: listens[0])
    monkeypatch.setattr(coordinator.serve.time, "monotonic", lambda: now[0])
    place = _place(tmp_path)
    study = _Study(place, end_server_app=lambda: runs.did.append("end"))

    def look(after_s: float) -> bool:
        now[0] += after_s
        return study.is_closed()

    assert not look(2)
    assert runs.did == []
    assert not place.registered.exists()
    listens[0] = True
    assert not look(2)
    assert runs.did == ["register a, b", "stop others", "start"]
    assert place.registered.read_text() == "key a\nkey b\n"  # now the gateway lets them connect
    coordinator_programs(place)  # a second command in the folder, which is refused after this
    assert place.registered.exists()
    assert not look(2)
    assert not look(0.1)  # too soon for another look
    runs.away = True
    assert not look(2)
    runs.away, runs.finished = False, True
    assert not look(2)
    assert runs.did[3:] == ["look", "close", "register a, b", "look", "end"]
    assert not look(1)
    assert not look(2)
    assert runs.did[8:] == ["stop others", "start"]
    closed = StudyClosed(rounds=1, sites=("a",), model_sha256="0" * 64, seconds=1)
    Journal(tmp_path / "journal.jsonl").write(closed)
    assert look(2)
    assert _Study(_place(tmp_path), end_server_app=runs.close).is_closed()
    assert runs.did.count("start") == 2


@pytest.fixture
def breaking_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Journal, _BreakOff]:
    """The journal of a study, and what lets its run break off after some events and tells in how
    many seconds another one is started."""
    runs, now = _Runs(), [0.0]
    runs.finished = True
    monkeypatch.setattr(coordinator.serve, "Control", lambda *_: runs)
    monkeypatch.setattr(coordinator.serve, "_listens", lambda _: True)
    monkeypatch.setattr(coordinator.serve.time, "monotonic", lambda: now[0])
    study = _Study(_place(tmp_path), end_server_app=lambda: None)

    def look_until(starts: int) -> None:
        while runs.did.count("start") < starts:
            now[0] += 2
            assert not study.is_closed()

    journal = Journal(tmp_path / "journal.jsonl")

    def break_off(*events: Event) -> float:
        look_until(1)
        for event in events:
            journal.write(event)
        began = now[0]
        look_until(runs.did.count("start") + 1)
        return now[0] - began

    return journal, break_off


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("spoiled-total", SpoiledTotalError),
        ("disk-full", DiskFullError),
        ("study-mismatch", StudyMismatchError),
        ("run", RunError),
        ("of a later version", PpflError),
    ],
)
def test_a_study_that_cannot_be_helped_is_not_taken_up_again(
    code: str, kind: type[PpflError], breaking_off: tuple[Journal, _BreakOff]
) -> None:
    _, break_off = breaking_off
    with pytest.raises(PpflError, match="it is like this") as told:
        break_off(StudyFailed(round=2, code=code, sentence="it is like this"))
    assert type(told.value) is kind
    if kind is SpoiledTotalError:
        assert "A spoiled total" in told.value.hint
        assert "A spoiled total" in (Path(__file__).parents[2] / "SECURITY.md").read_text()


def test_sites_that_are_missing_are_waited_for_ever_longer(
    breaking_off: tuple[Journal, _BreakOff], caplog: pytest.LogCaptureFixture
) -> None:
    _, break_off = breaking_off
    failed = StudyFailed(round=0, code="quorum", sentence="1 of 3 sites answered")
    waited = [break_off(failed) for _ in range(3)]
    assert waited == [32, 62, 122]
    closed = RoundClosed(round=1, sites=("a", "b"), seconds=1, total_sha256="0" * 64)
    assert break_off(closed, failed) == 32
    told = [message for message in caplog.messages if "broke off" in message]
    assert told[-1].endswith("broke off: 1 of 3 sites answered; taken up again in 30 s")


@pytest.mark.parametrize("says_so", [False, True])
def test_a_run_that_is_lost_again_and_again_is_given_up(
    says_so: bool, breaking_off: tuple[Journal, _BreakOff]
) -> None:
    _, break_off = breaking_off
    events: list[Event] = [RoundStarted(round=1, sites=("a", "b"))]
    if says_so:
        events += [StudyFailed(round=0, code=INTERNAL, sentence="KeyError in a.py, line 1")]
    waited = [break_off(*events) for _ in range(5)]
    assert waited == [4, 6, 10, 18, 34]
    why = "KeyError in a.py, line 1" if says_so else "its process was lost"
    with pytest.raises(RunError, match=f"broke off 6 times after round 0; the last time: {why}"):
        break_off(*events)


def test_why_an_earlier_command_ended_is_not_taken_for_why_this_one_does(
    breaking_off: tuple[Journal, _BreakOff], caplog: pytest.LogCaptureFixture
) -> None:
    journal, break_off = breaking_off
    journal.write(StudyFailed(round=2, code="disk-full", sentence="No space left on device"))
    assert break_off() == 4  # room was made since, and then the process was lost
    assert any("broke off: its process was lost" in message for message in caplog.messages)


def test_superlink_listens_on_the_loopback_interface_and_asks_for_keys(tmp_path: Path) -> None:
    superlink, superexec, gateway = coordinator_programs(_place(tmp_path))
    command = " ".join(map(str, superlink.command))
    assert "--host 127.0.0.1 --port 2 " in command
    assert "--enable-supernode-auth" in command
    assert "--isolation process --superexec-auth-secret-file" in command
    assert superexec.needs == superlink.name
    assert superexec.environment["PPFL_RUN"] == str(tmp_path)
    assert superexec.environment["PPFL_JOURNAL_KEY"] == str(tmp_path / "journal.key")
    homes = {program.environment["FLWR_HOME"] for program in (superlink, superexec, gateway)}
    assert len(homes) == 3


def test_the_dashboard_runs_beside_them_on_the_loopback_interface(tmp_path: Path) -> None:
    place = replace(_place(tmp_path), dashboard_port=3)
    dashboard = coordinator_programs(place)[-1]
    assert dashboard.name == "dashboard"
    command = " ".join(map(str, dashboard.command))
    assert f"-m coordinator.dashboard {tmp_path} --port 3 --token-file {place.folder}" in command
    assert place.dashboard.listen == "127.0.0.1"


def test_flowers_programs_call_nobody(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path / "home")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_a_secret_is_fresh_and_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secrets = set()
    for _ in range(2):
        write_secret(path)
        secrets.add(path.read_bytes())
        assert path.stat().st_mode & 0o777 == 0o600
    assert {len(secret) for secret in secrets} == {32}
    assert len(secrets) == 2
