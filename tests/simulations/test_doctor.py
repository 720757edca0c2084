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
    needed = ["flwr[simulation]<1.42,>=1.41", "no-such-package>=1"]
    monkeypatch.setattr(module, "requires", lambda _: needed)
    monkeypatch.setattr(module, "_PROGRAMS", ("no-such-program",))
    monkeypatch.setattr("simulations.runner._ACTOR_BYTES", 10**18)
    monkeypatch.setattr(module, "_DISK_BYTES", 10**18)
    choice = EngineChoice("gmp", "Engine native cannot run: it was not built.")
    monkeypatch.setattr(module, "choose_engine", lambda: choice)
    found = _by_name(tmp_path)
    assert found["packages"].found == "no no-such-package"
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


@pytest.mark.parametrize(
    ("needed", "found"),
    [
        ("numpy>=1.26,<2", "numpy 99.1, needed: <2,>=1.26"),
        ("numpy>=100", "numpy 99.1, needed: >=100"),
        ('numpy>=100; extra == "dev"', ""),
        ('numpy>=100; sys_platform == "another"', ""),
        ("numpy[extra]>=1.26", ""),
    ],
)
def test_a_package_of_another_version_than_ppfl_needs_is_wrong(
    needed: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "requires", lambda _: [needed])
    monkeypatch.setattr(module, "version", lambda _: "99.1")
    packages = module._packages()
    assert packages.state == ("wrong" if found else "ok")
    assert packages.found == (found or ", ".join(f"{name} 99.1" for name in module._TOLD))


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
