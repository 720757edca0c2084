"""`ppfl doctor --coordinator`: each thing that can be wrong before the first round."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import coordinator.doctor
import simulations.doctor
import sites.doctor
from coordinator.doctor import examine_coordinator
from coordinator.folder import COORDINATOR_FILE, prepare_run
from ppfl.errors import UnreachableError
from ppfl.federation import Journal
from ppfl.federation.journal import StudyFailed
from ppfl.findings import Finding
from ppfl.running import Running
from ppfl.settings import CoordinatorFile
from simulations.main import _app
from sites.reach import Reached
from tests.coordinator.test_status import _FIRST, _LOST
from tests.deployed import Deployed, free_port

_IS_SYNCHRONISED = coordinator.doctor._is_synchronised


@pytest.fixture
def folder(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator's folder that has all it needs."""
    path = deployed.coordinator / COORDINATOR_FILE
    text = path.read_text().replace("superlink_port = 9444", f"superlink_port = {free_port()}")
    path.write_text(text.replace('listen = "0.0.0.0"', 'listen = "127.0.0.1"'))
    monkeypatch.setattr(
        sites.doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**11)
    )
    monkeypatch.setattr(coordinator.doctor, "require_free_port", lambda *_: None)
    monkeypatch.setattr(coordinator.doctor, "_is_synchronised", lambda: True)
    return deployed.coordinator


def _by_name(folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine_coordinator(folder)}


def _settings(folder: Path) -> CoordinatorFile:
    return CoordinatorFile.read(folder / COORDINATOR_FILE)


def test_a_coordinator_that_is_ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _by_name(folder)
    assert {f.what for f in found.values() if f.state != "ok"} <= {"certificate"}
    assert found["kits"].found == "of alpha, beta"
    assert found["run"].found.endswith("run: not begun")
    assert " MB down in a round; " in found["line"].found
    monkeypatch.setattr(simulations.doctor, "_KEY_BITS", 2048)
    result = CliRunner().invoke(_app, ["doctor", "--coordinator", str(folder), "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["well"]
    assert {"self-test", "packages", "kits"} <= {f["what"] for f in told["findings"]}


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def _run_of_another_study(folder: Path) -> None:
    prepare_run(_settings(folder))
    _edit("run/study.toml", "rounds = 10", "rounds = 9")(folder)


def _name_another_start(folder: Path) -> None:
    text = (folder / "study.toml").read_text()
    other = re.sub('start_sha256 = "[0-9a-f]{64}"', f'start_sha256 = "{"0" * 64}"', text)
    assert other != text
    (folder / "study.toml").write_text(other)


def _swap_cards(folder: Path) -> None:
    shutil.copy(folder / "cards" / "alpha.card", folder / "cards" / "beta.card")


@pytest.mark.parametrize(
    ("spoil", "what", "code"),
    [
        (lambda f: (f / COORDINATOR_FILE).unlink(), "settings", "settings"),
        (_edit("study.toml", 'sites = [\n    "alpha",\n    "beta",\n]', 'sites = ["a", "a"]'),
         "settings", "duplicate-site"),
        (_edit(COORDINATOR_FILE, 'host = "127.0.0.1"', 'host = "b.org"'),
         "certificates", "certificate"),
        (lambda f: (f / "tls" / "server.key").chmod(0o644), "certificates", "key-access"),
        (lambda f: (f / "tls" / "ca.key").chmod(0o644), "certificates", "key-access"),
        (lambda f: (f / "tls" / "server.crt").write_text("none"), "certificate", "certificate"),
        (lambda f: (f / "journal.key").chmod(0o644), "record", "key-access"),
        (lambda f: (f / "public.key").unlink(), "study", "key-file"),
        (_run_of_another_study, "study", "study-mismatch"),
        (lambda f: (f / "cards" / "beta.card").unlink(), "sites", "key-file"),
        (_swap_cards, "sites", "key-mismatch"),
        (lambda f: (f / "kits" / "beta.kit").unlink(), "kits", "kit"),
        (_edit(COORDINATOR_FILE, "port = 9443", "port = 9440"), "kits", "kit"),
        (_edit("study.toml", "rounds = 10", "rounds = 9"), "kits", "kit"),
        (lambda f: (f / "start.safetensors").unlink(), "start", "model"),
        (_name_another_start, "start", "model"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_found(
    spoil: Callable[[Path], None], what: str, code: str, folder: Path
) -> None:
    spoil(folder)
    found = next(finding for finding in examine_coordinator(folder) if finding.what == what)
    assert (found.state, found.code) == ("wrong", code)
    assert found.advice


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (0, "says that it is synchronised"),
        (4, "says that it is synchronised"),  # a leap second was put in
        (5, "says that it is not synchronised"),
        (-1, "does not say whether it is synchronised"),
        (None, "does not say whether it is synchronised"),
    ],
)
def test_a_clock_that_nothing_keeps_right_is_noted(
    state: int | None, found: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.doctor, "_is_synchronised", _IS_SYNCHRONISED)
    library = SimpleNamespace() if state is None else SimpleNamespace(adjtimex=lambda _: state)
    monkeypatch.setattr(coordinator.doctor.ctypes, "CDLL", lambda _: library)
    clock = _by_name(folder)["clock"]
    assert found in clock.found
    assert (clock.state == "ok") == (not clock.advice) == (state in (0, 4))


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's")
def test_the_kernel_is_asked_about_its_clock_and_told_nothing() -> None:
    assert _IS_SYNCHRONISED() in (True, False, None)


def test_a_port_in_use_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    settings = _settings(folder)
    with socket.create_server(("127.0.0.1", settings.superlink_port)):
        ports = [f for f in examine_coordinator(folder) if f.what == "port"]
    assert (ports[1].state, ports[1].code) == ("wrong", "port")


def test_a_coordinator_that_runs_must_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = coordinator.doctor
    monkeypatch.setattr(module, "read_running", lambda _: Running(5, ()))
    expires = module.read_expiry(folder / "tls" / "server.crt")

    def away(_: object) -> Reached:
        raise UnreachableError("nobody")

    for answer, state in (
        (lambda _: Reached(expires, 0.0, 200), "ok"),
        (lambda _: Reached(expires, 0.0, 502), "wrong"),
        (away, "note"),
    ):
        monkeypatch.setattr(module, "reach", answer)
        found = next(f for f in examine_coordinator(folder) if f.what == "processes")
        assert found.state == state
        assert found.advice or state == "ok"


def test_a_run_that_broke_off_is_noted(folder: Path) -> None:
    prepare_run(_settings(folder))
    journal = Journal(folder / "run" / "journal.jsonl")
    for event in (*_FIRST, *_LOST):
        journal.write(event)
    assert isinstance(_LOST[-1], StudyFailed)
    found = _by_name(folder)["run"]
    assert found.state == "note"
    assert found.found == "1 of 10 rounds are complete; it ended: quorum: One of two."
