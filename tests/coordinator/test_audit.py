"""What `ppfl audit` finds, on one small study that was run and then tampered with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.audit import Audit, audit
from ppfl.crypto.signing import Signer, create_signing_key, read_signing_key
from ppfl.errors import RecordError, RunError, SettingsError
from ppfl.federation import Journal, read_journal
from ppfl.federation.chain import Chain
from ppfl.federation.journal import Alarm, LeftHospital, RoundClosed
from ppfl.federation.journal_file import read_lines
from ppfl.federation.records import record_statement
from ppfl.settings import Study
from simulations.main import _app
from simulations.prepare import prepare
from simulations.runner import run_in_process
from tests.simulations.tiny import SITES, tiny_scenario


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two rounds that ran to its end; no check here needs it encrypted."""
    folder = tmp_path_factory.mktemp("audit") / "run"
    scenario = tiny_scenario("unsafe_plaintext", federation={"keep_ciphertexts": True})
    prepare(scenario, folder)
    run_in_process(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to tamper with; images and models are not needed."""
    skip = shutil.ignore_patterns("xrays", "*.safetensors", "cache*")
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=skip))


def _lines(run: Path) -> list[bytes]:
    return (run / "journal.jsonl").read_bytes().splitlines()


def _write(run: Path, lines: list[bytes]) -> None:
    (run / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _place(run: Path, kind: str, count: int = 1) -> int:
    """Where the so-manieth event of a kind stands."""
    places = [n for n, line in enumerate(_lines(run)) if f'"event":"{kind}"'.encode() in line]
    return places[count - 1]


def _relink(lines: list[bytes], signer: Signer | None = None) -> list[bytes]:
    """The lines as a chain again; records signed anew by whoever has the key."""
    linked: list[bytes] = []
    for line in lines:
        table = json.loads(line)
        table["previous"] = hashlib.sha256(linked[-1]).hexdigest() if linked else ""
        if signer and "signature" in table and table["event"] != "round_countersigned":
            table["signature"] = ""
            table["signature"] = signer.sign(record_statement(_dump(table), ""))
        linked.append(_dump(table))
    return linked


def _dump(table: dict[str, object]) -> bytes:
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()


def _alone(run: Path) -> Audit:
    """What is found where neither a site nor a checkpoint helps."""
    shutil.rmtree(run / "sites", ignore_errors=True)
    (run / "checkpoint.bin").unlink(missing_ok=True)
    return audit(run)


def test_a_run_that_nobody_touched_is_well(run: Path) -> None:
    found = audit(run)
    assert (found.findings, found.notes) == ([], [])
    assert found.study == "tiny"
    assert [(each.number, each.sites, each.total) for each in found.rounds] == [
        (1, SITES, "added up again"),
        (2, SITES, "added up again"),
    ]
    assert all(each.countersigned == SITES for each in found.rounds)
    for name in SITES:
        leaving = found.left[name]
        assert {each.source for each in leaving} == {"site"}
        assert {(each.first, each.last) for each in leaving} >= {(0, 0), (1, 2), (3, 3)}
        assert "signature under the record of the round before" in {each.what for each in leaving}
        own = read_journal(run / "sites" / name / "work" / "journal.jsonl")
        items = [item for event in own if isinstance(event, LeftHospital) for item in event.items]
        assert sum(each.times for each in leaving) == len(items)
        assert sum(each.bytes for each in leaving) == sum(item.bytes for item in items)
    shutil.rmtree(run / "sites")
    for leaving in audit(run).left.values():  # the coordinator knows of the sealed ones
        told = [(each.first, each.last, each.times) for each in leaving]
        assert told == [(0, 0, 1), (1, 2, 2), (1, 2, 2)]
        assert all(each.bytes > 0 for each in leaving)


def _breaks(run: Path) -> list[str]:
    """Where the chain of a run's journal breaks."""
    chain, found = Chain(), []
    for line in read_lines(run / "journal.jsonl"):
        try:
            chain.accept(line)
        except RecordError as error:
            found.append(str(error))
    return found


def test_each_line_that_is_changed_removed_or_put_in_is_found(run: Path) -> None:
    whole = _lines(run)
    assert not _breaks(run)
    for place, line in enumerate(whole[:-1]):
        changed = line.replace(b'"time":"20', b'"time":"19', 1)
        for lines in (
            [*whole[:place], changed, *whole[place + 1 :]],
            [*whole[:place], *whole[place + 1 :]],
            [*whole[:place], line, *whole[place:]],
            [*whole[:place], b"", *whole[place:]],
            [*whole[:place], whole[place + 1], line, *whole[place + 2 :]],
        ):
            _write(run, lines)
            assert _breaks(run), place
    assert any("does not follow on what stands before it" in f for f in _alone(run).findings)
    # the last line has none after it, but its own signature
    _write(run, [*whole[:-1], whole[-1].replace(b'"time":"20', b'"time":"19', 1)])
    assert not _breaks(run)
    assert _alone(run).findings == [
        f"{run / 'journal.jsonl'}, line {len(whole)}: the record `study_closed`: "
        "the signature does not fit"
    ]


def test_a_chain_that_is_made_anew_lacks_the_coordinators_signature(run: Path) -> None:
    lines = _lines(run)
    place = _place(run, "site_answered")
    lines[place] = lines[place].replace(b'"clipped":0', b'"clipped":9')
    _write(run, _relink(lines))
    findings = _alone(run).findings
    assert any("the record `round_closed`: the signature does not fit" in f for f in findings)
    assert not any("does not follow" in finding for finding in findings)


def test_not_even_the_coordinator_can_change_what_sites_countersigned(run: Path) -> None:
    lines, signer = _lines(run), read_signing_key(run / "journal.key")
    place = _place(run, "site_answered")
    lines[place] = lines[place].replace(b'"clipped":0', b'"clipped":9')
    _write(run, _relink(lines, signer))
    findings = audit(run).findings
    assert any("east countersigned a record of round 1 that is not there" in f for f in findings)
    assert any("site west: was shown a record of round 2 that is not in" in f for f in findings)
    without = [line for line in lines if b'"event":"round_countersigned"' not in line]
    _write(run, _relink(without, signer))
    findings = _alone(run).findings
    assert any("did not countersign the record of round 1" in finding for finding in findings)
    assert any("did not countersign the record of round 2" in finding for finding in findings)


@pytest.mark.parametrize("trick", ["begin anew", "another round"])
def test_countersignatures_are_missed_whatever_is_put_in_their_place(run: Path, trick: str) -> None:
    """The coordinator, with its own key, takes them out and hides the record that they lack."""
    lines, signer = _lines(run), read_signing_key(run / "journal.key")
    dummy = json.loads(lines[_place(run, "study_started")])
    if trick == "another round":
        dummy = json.loads(lines[_place(run, "round_closed")])
        dummy |= {"round": 999, "sites": [], "vectors": {}}
    forged: list[bytes] = []
    for line in lines:
        kind = json.loads(line)["event"]
        if kind == "round_countersigned":
            continue
        if kind in ("round_started", "study_closed"):
            forged.append(_dump(dummy))
        forged.append(line)
    _write(run, _relink(forged, signer))
    findings = _alone(run).findings
    assert any("went on, but no record of round 1 stands before" in each for each in findings)
    assert any("went on, but no record of round 2 stands before" in each for each in findings)


def test_a_run_that_the_coordinator_keeps_to_itself_is_told_by_the_sites(
    run: Path, tmp_path: Path
) -> None:
    """It threw a run away, and began anew under another name."""
    other = json.loads(_lines(run)[0])["run"]
    lines = [line.replace(other.encode(), b"0123456789abcdef") for line in _lines(run)]
    _write(run, _relink(lines, read_signing_key(run / "journal.key")))
    findings = [each for each in audit(run).findings if "which this journal does not name" in each]
    assert len(findings) == 3
    assert all(f"answered run {other} 5 times (" in each for each in findings)
    assert all("though 2 records of it are signed here" in each for each in findings)
    # under the same key, of a study that was changed since
    places = [run / "sites" / name / "work" / "journal.jsonl" for name in SITES]
    kept = {path: path.read_bytes() for path in places}
    study = Study.read(run / "study.toml").fingerprint().encode()
    for path, text in kept.items():
        table = [line.replace(study, b"0" * 64) for line in text.splitlines()]
        path.write_bytes(b"".join(line + b"\n" for line in _relink(table)))
    found = audit(run)
    assert not any("does not name" in each for each in found.findings)
    assert sum("does not name: of another study, or" in each for each in found.notes) == 3
    for path, text in kept.items():
        path.write_bytes(text)
    # nothing ties it to this study where another coordinator signed
    signer = create_signing_key(tmp_path / "other.key")
    public = read_signing_key(run / "journal.key").public.encode()
    _write(run, _relink([e.replace(public, signer.public.encode()) for e in lines], signer))
    found = audit(run)
    assert not any("does not name" in each for each in found.findings)
    assert sum("does not name: of another study, or" in each for each in found.notes) == 3


def test_sites_that_end_with_other_models_are_a_finding(run: Path) -> None:
    lines, signer = _lines(run), read_signing_key(run / "journal.key")
    closed = json.loads(lines[-1])
    lines[-1] = _dump(closed | {"model_sha256": ""})
    _write(run, _relink(lines, signer))
    findings = audit(run).findings
    assert [each.partition(": ")[2] for each in findings] == [
        "no majority of the sites holds the same model"
    ]


def test_who_takes_the_coordinators_place_has_another_key_than_sites_know(
    run: Path, tmp_path: Path
) -> None:
    other = create_signing_key(tmp_path / "other.key")
    ours = read_signing_key(run / "journal.key").public.encode()
    lines = [line.replace(ours, other.public.encode()) for line in _lines(run)]
    _write(run, _relink(lines, other))
    findings = audit(run).findings
    assert "site east: knows another coordinator's key than signed here" in findings
    lines[0] = lines[0].replace(read_signing_key(_key(run, "east")).public.encode(), ours)
    _write(run, _relink(lines, other))
    assert "site east: has another key than this journal says" in audit(run).findings


def _key(run: Path, site: str) -> Path:
    return run / "sites" / site / "signing.key"


def test_an_end_that_was_cut_off_is_found_by_whoever_knows_more(run: Path) -> None:
    whole, second = _lines(run), _place(run, "round_closed", 2)
    for end in (second, second + 1, len(whole) - 1):
        _write(run, whole[:end])
        found = audit(run)
        assert any("ends in the midst of the study" in note for note in found.notes)
        assert any("nothing is signed" in note for note in found.notes) is (end != second + 1)
        told = " ".join(found.findings)
        assert ("whose record is not in the journal" in told) is (end <= second)
        assert ("was shown a record of round 2" in told) is (end <= second)
        assert told.count("has told the final figures, but") == 3  # each site knows
    # who has the journal alone is told that it ends in the midst, and no more can be known
    found = _alone(run)
    assert not found.findings
    assert any("only a site's own journal can tell" in note for note in found.notes)


def test_a_line_that_a_crash_tore_is_told_and_harms_nothing(run: Path) -> None:
    path, lines = run / "journal.jsonl", _lines(run)
    path.write_bytes(path.read_bytes() + lines[3][:50])
    found = audit(run)
    assert not found.findings
    assert found.notes == [f"line {len(lines) + 1} was torn by a crash; nothing hangs on it"]
    signer = read_signing_key(run / "journal.key")
    Journal(path, signer=signer).write(Alarm(round=2, code="clipping", sentence="x"))
    assert not audit(run).findings
    torn = path.read_bytes()
    path.write_bytes(torn.replace(lines[3][:50] + b"\n", b""))
    assert any("does not follow" in finding for finding in audit(run).findings)
    path.write_bytes(torn.replace(lines[3][:50] + b"\n", lines[3][:49] + b"\n"))
    assert any("does not follow" in finding for finding in audit(run).findings)


def test_totals_are_added_up_again_from_what_was_kept(run: Path) -> None:
    path = run / "ciphertexts" / "round-0002" / "north.bin"
    whole = path.read_bytes()
    for change, sentence in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "of north is not the one that was added"),
        (None, "of north was kept, and is not there"),
    ):
        path.unlink()
        if change:
            path.write_bytes(change)
        found = audit(run)
        assert found.findings == [f"round 2: the {found.findings[0].partition(': the ')[2]}"]
        assert sentence in found.findings[0]
        assert [each.total for each in found.rounds] == ["added up again", "wrong"]
        path.write_bytes(whole)
    signer, lines, place = (
        read_signing_key(run / "journal.key"),
        _lines(run),
        _place(run, "round_closed", 2),
    )
    digest = json.loads(lines[place])["total_sha256"].encode()
    lines[place] = lines[place].replace(digest, b"0" * 64)
    _write(run, _relink(lines, signer))
    assert any("do not add up to the total" in finding for finding in _alone(run).findings)
    shutil.rmtree(run / "ciphertexts")
    assert any("should have been kept" in finding for finding in _alone(run).findings)


def test_a_vector_that_never_left_a_site_is_found(run: Path) -> None:
    lines, place = _lines(run), _place(run, "site_answered", 5)
    digest = json.loads(lines[place])["sealed_sha256"].encode()
    _write(run, [line.replace(digest, b"f" * 64) for line in lines])
    findings = audit(run).findings
    assert any("north: a vector was added that, by its own journal" in f for f in findings)


def test_a_sites_own_journal_is_a_chain_too(run: Path) -> None:
    path = run / "sites" / "east" / "work" / "journal.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], *lines[3:]]) + b"\n")
    assert any(f"{path}, line 3: does not follow" in f for f in audit(run).findings)
    path.write_bytes(path.read_bytes().replace(b'"sha256":"', b'"sha256":"0', 1))
    path.unlink()
    assert f"{path}: no such journal" in audit(run).findings


def test_a_sites_own_journal_that_was_emptied_is_found(run: Path) -> None:
    (run / "sites" / "east" / "work" / "journal.jsonl").write_bytes(b"")
    found = audit(run)
    assert any("site east: " in f and "nothing left it in this run" in f for f in found.findings)
    assert found.left["east"]  # what the coordinator's journal says


def test_two_runs_in_one_journal_are_found(run: Path) -> None:
    other = _lines(run)[0]
    study = json.loads(other)["study_fingerprint"].encode()
    _write(run, _relink([*_lines(run), other.replace(study, b"0" * 64)]))
    assert any("two runs are mixed" in finding for finding in _alone(run).findings)


def test_that_a_study_began_anew_is_told(run: Path) -> None:
    before = _lines(run)[0]
    name = json.loads(before)["run"].encode()
    _write(run, _relink([before.replace(name, b"0" * 16), *_lines(run)]))
    found = _alone(run)
    assert found.run == name.decode()
    assert any("began anew 1 times" in note for note in found.notes)


def test_a_run_that_was_killed_before_the_record_goes_on_and_is_well(
    finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    lines, place = _lines(folder), _place(folder, "round_closed", 2)
    _write(folder, lines[:place])
    for journal in folder.glob("sites/*/work/journal.jsonl"):  # they were shown none yet
        own = journal.read_bytes().splitlines(keepends=True)
        shown = [n for n, line in enumerate(own) if b'"event":"record_witnessed"' in line]
        journal.write_bytes(b"".join(own[: shown[1]]))
    assert ["killed between both" in f for f in audit(folder).findings] == [True]
    run_in_process(folder)
    found = audit(folder)
    assert (found.findings, found.notes) == ([], [])
    assert [each.total for each in found.rounds] == ["added up again"] * 2
    events = [line.event() for line in read_lines(folder / "journal.jsonl")]
    again = [event for event in events if isinstance(event, RoundClosed)][-1]
    assert again.vectors == json.loads(lines[place])["vectors"]


def test_the_command_says_each_finding_and_ends_with_its_code(run: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(_app, ["audit", str(run)])
    assert result.exit_code == 0
    assert "round 2: east, north, west in the total; countersigned by east, north" in result.stdout
    assert "what left east, by its own journal:" in result.stdout
    site = run / "sites" / "west"
    elsewhere = run.parent / "west"
    site.rename(elsewhere)
    shutil.rmtree(run / "sites")
    _write(run, _lines(run)[:-1][: _place(run, "round_closed", 2)])
    result = runner.invoke(_app, ["audit", str(run), "--site", str(elsewhere), "--json"])
    assert result.exit_code == RecordError.exit_code == 63
    told = json.loads(result.stdout)
    assert told["well"] is False
    assert result.stderr.splitlines() == [f"ppfl: {finding}" for finding in told["findings"]]
    assert [leaving["source"] for leaving in told["left"]["west"]][:1] == ["site"]
    assert [leaving["source"] for leaving in told["left"]["east"]][:1] == ["coordinator"]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda run: (run / "journal.jsonl").unlink(), RunError),
        (lambda run: (run / "study.toml").unlink(), SettingsError),
        (
            lambda run: _write(run, [b'{"version":1,"event":"alarm"}']),
            RunError,
        ),
    ],
    ids=["no journal", "no study", "an earlier version"],
)
def test_what_is_no_run_is_said(
    run: Path, spoil: Callable[[Path], None], kind: type[Exception]
) -> None:
    spoil(run)
    with pytest.raises(kind):
        audit(run)


def test_kept_vectors_are_their_owners(finished: Path) -> None:
    for path in (finished / "ciphertexts").rglob("*.bin"):
        assert os.stat(path).st_mode & 0o077 == 0
