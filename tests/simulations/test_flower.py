"""Flower's own simulation: SuperLink, Ray and the two apps, as `ppfl simulate` starts them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import simulations.runner
from coordinator.rounds import Coordinator
from ppfl.crypto import choose_engine
from ppfl.errors import RunError
from ppfl.federation import read_journal
from ppfl.federation.journal import RoundClosed, StudyClosed, StudyStarted
from ppfl.learning.files import load_model
from simulations.main import _app
from simulations.prepare import prepare
from simulations.runner import check_memory
from tests.simulations.tiny import SITES, run_without_report, tiny_scenario


class _PowerCutError(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_in_flower_to_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        scenario = tiny_scenario("unsafe_plaintext", model={"local_layers": ["conv1"]})
        prepare(scenario, folder, threads=1)
    run_without_report(whole)
    one_round = Coordinator._round

    def fail_in_the_second(self: Coordinator, number: int) -> None:
        if number == 2:
            raise _PowerCutError
        one_round(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(Coordinator, "_round", fail_in_the_second)
        with pytest.raises(_PowerCutError):
            run_without_report(cut)
    result = CliRunner().invoke(
        _app, ["simulate", "--resume", str(cut), "--json"], catch_exceptions=False
    )
    told = json.loads(result.stdout)
    closed = read_journal(whole / "journal.jsonl")[-1]
    assert isinstance(closed, StudyClosed)
    assert told["model_sha256"] == closed.model_sha256
    for name in SITES:
        models = [
            load_model(f / "sites" / name / "work" / "model.safetensors") for f in (whole, cut)
        ]
        assert models[0][1] == models[1][1]  # the digest of all its parameters is among this
    assert told["engine"] == choose_engine().name
    events = read_journal(cut / "journal.jsonl")
    assert [e.resumed_after for e in events if isinstance(e, StudyStarted)] == [0, 1]
    assert [e.round for e in events if isinstance(e, RoundClosed)] == [1, 2]
    left = [p for p in psutil.process_iter() if str(cut) in " ".join(_environment(p))]
    assert left == []


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare(tiny_scenario("unsafe_plaintext"), folder, threads=1)
    command = [Path(sys.executable).with_name("ppfl"), "simulate", "--resume", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until = time.monotonic() + 120
        while b"site_enrolled" not in _read(folder / "journal.jsonl"):
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        started = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert any("ray" in process.name() for process in started)
    assert psutil.wait_procs(started, timeout=60)[1] == []


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _environment(process: psutil.Process) -> list[str]:
    try:
        return list(process.environ().values()) if process.pid != psutil.Process().pid else []
    except psutil.Error:
        return []


def test_too_little_memory_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(1)
    monkeypatch.setattr(simulations.runner, "_ACTOR_BYTES", 10**15)
    with pytest.raises(RunError, match="are needed for 2 sites at one time"):
        check_memory(2)
