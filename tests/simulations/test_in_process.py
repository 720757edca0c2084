"""A whole study over Flower's messages, in this process: real crypto, a small key, few pictures."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from ppfl.errors import QuorumError, RunError, SettingsError, write_error
from ppfl.federation import Journal, read_journal
from ppfl.federation.journal import Event, LeftHospital, SiteFailed, StudyClosed
from ppfl.report import summarise
from simulations.prepare import prepare
from simulations.runner import run_in_process
from simulations.scenario import read_scenario
from tests.simulations.tiny import prepare_once, tiny_scenario

_PLAIN = "unsafe_plaintext"


def _result(folder: Path) -> dict[str, object]:
    return summarise(read_journal(folder / "journal.jsonl")).to_dict()


@pytest.mark.slow
def test_encryption_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    results, protections = [], []
    for name, custody, s in (("shared", "shared", 1), ("s-2", "shared", 2), ("plain", _PLAIN, 1)):
        folder = tmp_path / name
        prepare_once(tiny_scenario(custody, encryption={"s": s}), folder)
        run_in_process(folder)
        results.append(_result(folder))
        journal = folder / "sites" / "east" / "work" / "journal.jsonl"
        left = [event for event in read_journal(journal) if isinstance(event, LeftHospital)]
        protections.append({event.items[0].protection for event in left[:-1]})
    sealed, smaller, plain = results
    # the studies differ in their custody, s and key alone, and training depends on none of them
    assert sealed["model_sha256"] == smaller["model_sha256"] == plain["model_sha256"]
    assert sealed["test"] == smaller["test"] == plain["test"]
    assert len(sealed["rounds"]) == 2  # type: ignore[arg-type]
    told = [{"Paillier, 2048 bits"}, {"Paillier (Damgård–Jurik, s = 2), 2048 bits"}]
    assert protections[:2] == told
    assert (tmp_path / "shared" / "report.html").read_text().count("<img") == 5
    assert (tmp_path / "shared" / "metrics.csv").read_text().startswith("round,sites")


def test_a_site_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    broken = tmp_path / "run" / "sites" / "north"
    picture = next((broken / "xrays").rglob("*.png"))
    picture.write_bytes(b"no picture")
    run_in_process(tmp_path / "run")
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    failed = [event for event in events if isinstance(event, SiteFailed)]
    assert {(event.site, event.code) for event in failed} == {("north", "unreadable-image")}
    assert not any(str(tmp_path) in event.sentence for event in failed)
    assert isinstance(events[-1], StudyClosed)
    assert str(picture.name) in (broken / "work" / "journal.jsonl").read_text()


def test_a_site_whose_disk_is_full_says_so_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    write = Journal.write

    def fill(journal: Journal, event: Event) -> bytes:
        if "north" in journal.path.parts:
            raise write_error(str(journal.path), OSError(errno.ENOSPC, "No space left on device"))
        return write(journal, event)

    monkeypatch.setattr(Journal, "write", fill)
    run_in_process(tmp_path / "run")
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    failed = {(e.site, e.code, e.sentence) for e in events if isinstance(e, SiteFailed)}
    assert failed == {("north", "disk-full", "The disk is full.")}
    assert isinstance(events[-1], StudyClosed)


def test_without_a_quorum_the_study_stops_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    others = [folder / "sites" / name / "study.toml" for name in ("north", "west")]
    agreed = others[0].read_text()
    for path in others:
        path.write_text(agreed.replace("seed = 2022", "seed = 2023"))
    with pytest.raises(QuorumError, match="1 of 3 sites answered"):
        run_in_process(folder)
    codes = {
        event.code
        for event in read_journal(folder / "journal.jsonl")
        if isinstance(event, SiteFailed)
    }
    assert codes == {"study-mismatch"}
    for path in others:
        path.write_text(agreed)
    run_in_process(folder)
    assert _result(folder)["model_sha256"]
    with pytest.raises(RunError, match="holds a run already"):
        prepare(tiny_scenario("unsafe_plaintext"), folder)


def test_scenarios_take_changes_and_refuse_nonsense() -> None:
    changed = read_scenario("quickstart", rounds=7, changes=["value_bits=20", "engine=reference"])
    assert changed.study["training"]["rounds"] == 7
    assert changed.study["encryption"]["value_bits"] == 20
    assert changed.simulation.engine == "reference"
    changed = read_scenario(
        "covid", changes=["seed=3", "images.size=64", "partition={kind='column'}"]
    )
    assert changed.study["seed"] == 3
    assert changed.study["images"]["size"] == 64
    assert changed.simulation.partition.kind == "column"
    with pytest.raises(SettingsError, match="no such setting") as told:
        read_scenario("quickstart", changes=["learning_rat=1"])
    assert "learning_rate" in told.value.hint
    with pytest.raises(SettingsError, match=r"built in are covid, .*quickstart, reproduce"):
        read_scenario("none")
    with pytest.raises(SettingsError, match="key=value"):
        read_scenario("quickstart", changes=["value_bits"])
    assert json.dumps(changed.study)
