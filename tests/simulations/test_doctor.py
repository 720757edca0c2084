from __future__ import annotations

from pathlib import Path

import pytest
import typer

from ppfl.crypto import EngineChoice, choose_engine
from simulations import doctor as module
from simulations.doctor import Finding, doctor, examine


def _by_name(folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(folder)}


@pytest.mark.slow
def test_this_machine_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok      self-test: ") for line in lines)
    assert any(choose_engine().reason in line for line in lines)


def test_what_is_missing_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_KEY_BITS", 2048)
    monkeypatch.setattr(module, "_PACKAGES", ("flwr", "no-such-package"))
    monkeypatch.setattr(module, "_PROGRAMS", ("no-such-program",))
    monkeypatch.setattr("simulations.runner._ACTOR_BYTES", 10**18)
    monkeypatch.setattr(module, "_DISK_BYTES", 10**18)
    choice = EngineChoice("gmp", "Engine native cannot run: it was not built.")
    monkeypatch.setattr(module, "choose_engine", lambda: choice)
    found = _by_name(tmp_path)
    assert "no-such-package" in found["packages"].found
    assert "no-such-program" in found["Flower's programs"].found
    assert found["memory"].state == "wrong"
    assert found["disk"].state == "note"
    assert found["engine"] == Finding(
        "engine", "note", f"gmp. {choice.reason}", found["engine"].advice
    )
    with pytest.raises(typer.Exit):
        doctor(tmp_path / "no such folder")
    out = capsys.readouterr().out
    assert "wrong   disk: " in out
    assert "hint: name another folder" in out


def test_an_engine_that_errs_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEY_BITS", 2048)
    engine = module.create_engine

    def broken(*arguments: object, name: str) -> object:
        made = engine(*arguments, name=name)  # type: ignore[arg-type]
        if name == "auto":
            right = made.decrypt
            monkeypatch.setattr(made, "decrypt", lambda c: right(c)[:-1] + b"\0", raising=False)
        return made

    monkeypatch.setattr(module, "create_engine", broken)
    assert _by_name(tmp_path)["self-test"].state == "wrong"
