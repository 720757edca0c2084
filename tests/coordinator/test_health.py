"""A program that hangs: it does not end, and a connection to it is accepted by the kernel."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

import coordinator.health
import coordinator.serve
from coordinator.health import Health
from tests.coordinator.certificates import write_certificates
from tests.coordinator.gateway_in_threads import gateway
from tests.coordinator.test_serve import _place
from tests.deployed import free_port

_Patch = pytest.MonkeyPatch


@pytest.fixture
def places(tmp_path: Path, monkeypatch: _Patch) -> Iterator[Mapping[str, str]]:
    """Addresses of a program that answers, of one that hangs, and of none."""
    write_certificates(tmp_path)
    monkeypatch.setattr(coordinator.health, "_TIMEOUT_S", 0.5)
    with gateway(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as hanging:
        ports = running.port, hanging.getsockname()[1], free_port()
        names = "answers", "hangs", "away"
        yield {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}


@pytest.mark.parametrize(
    ("superlink", "gateway", "silent"),
    [
        ("answers", "answers", None),
        ("answers", "hangs", "gateway"),
        ("hangs", "answers", "superlink"),
        ("hangs", "hangs", "superlink"),
        ("away", "hangs", "gateway"),
        ("away", "away", None),
        ("hangs", "away", "superlink"),
    ],
)
def test_who_says_nothing_for_a_minute_is_found_and_then_given_time(
    superlink: str,
    gateway: str,
    silent: str | None,
    places: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: _Patch,
) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(coordinator.health, "time", clock)
    health = Health(
        superlink=places[superlink], gateway=places[gateway], authority=tmp_path / "ca.crt"
    )
    told: list[str | None] = []
    for now[0] in (0, 59, 61, 62, 121, 123):
        health.look()
        told.append(health.find_silent())
    assert told == [None, None, silent, None, None, silent]


def test_it_goes_on_asking_in_the_background(
    places: Mapping[str, str], tmp_path: Path, monkeypatch: _Patch
) -> None:
    monkeypatch.setattr(coordinator.health, "_EVERY_S", 0.01)
    monkeypatch.setattr(coordinator.health, "SILENT_S", 1.0)
    health = Health(
        superlink=places["answers"], gateway=places["hangs"], authority=tmp_path / "ca.crt"
    )
    with health:
        while not (silent := health.find_silent()):
            pass
    assert silent == "gateway"


def test_a_program_that_hangs_is_started_again(
    tmp_path: Path, monkeypatch: _Patch, caplog: pytest.LogCaptureFixture
) -> None:
    write_certificates(tmp_path)
    restarted: list[str] = []
    told = iter([None, "superlink", None, "gateway"])

    class _Supervisor:
        stop = restart = restarted.append

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, each: Callable[[], None]) -> None:
            for _ in range(4):
                each()

    monkeypatch.setattr(coordinator.serve, "Supervisor", _Supervisor)
    monkeypatch.setattr(Health, "find_silent", lambda _: next(told))
    assert not coordinator.serve.serve_coordinator(_place(tmp_path), each=lambda: None)
    assert restarted == ["superlink", "gateway"]
    said = "has been silent for 60 s and is started again"
    assert caplog.messages == [f"superlink {said}", f"gateway {said}"]
