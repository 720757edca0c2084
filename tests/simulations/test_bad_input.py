"""What a user sees who gives it something it cannot use: a sentence that names what and where."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tomli_w
from torch import nn
from typer.testing import CliRunner

import simulations.prepare
import sites.hospital
from ppfl.errors import DataError, KeyFileError, PpflError, QuorumError
from ppfl.federation import read_journal
from ppfl.federation.journal import Refused, SiteFailed, StudyClosed
from ppfl.settings import SiteFile
from ppfl.xray import write_phantoms
from simulations.main import _app, main
from simulations.prepare import prepare
from simulations.runner import run_in_process
from sites.agreement import Agreement
from sites.hospital import Hospital
from sites.requests import Request
from tests.simulations.tiny import prepare_once, run_without_report, tiny_scenario

_TOP = Path(__file__).parents[2]


def _failed(folder: Path) -> set[tuple[str, str]]:
    events = read_journal(folder / "journal.jsonl")
    return {(event.site, event.code) for event in events if isinstance(event, SiteFailed)}


def _only_one_class(site: Path) -> None:
    shutil.rmtree(site / "xrays" / "Effusion")


def _one_image(site: Path) -> None:
    pictures = sorted((site / "xrays").rglob("*.png"))
    for picture in pictures[1:]:
        picture.unlink()


@pytest.mark.parametrize("change", [_only_one_class, _one_image])
def test_a_poor_site_takes_part_all_the_same(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext", training={"rounds": 1}), tmp_path / "run")
    change(tmp_path / "run" / "sites" / "north")
    run_in_process(tmp_path / "run")
    assert _failed(tmp_path / "run") == set()
    assert isinstance(read_journal(tmp_path / "run" / "journal.jsonl")[-1], StudyClosed)


def _no_folder(site: Path) -> None:
    shutil.rmtree(site / "xrays")


def _empty_folder(site: Path) -> None:
    shutil.rmtree(site / "xrays")
    (site / "xrays").mkdir()


def _corrupt_image(site: Path) -> None:
    next((site / "xrays").rglob("*.png")).write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("change", "code"),
    [(_no_folder, "data"), (_empty_folder, "data"), (_corrupt_image, "unreadable-image")],
)
def test_a_site_without_usable_images_says_so_to_its_owner_only(
    tmp_path: Path, change: Callable[[Path], None], code: str
) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext", training={"rounds": 1}), tmp_path / "run")
    north = tmp_path / "run" / "sites" / "north"
    change(north)
    run_without_report(tmp_path / "run")
    assert _failed(tmp_path / "run") == {("north", code)}
    assert str(north) not in (tmp_path / "run" / "journal.jsonl").read_text()
    refused = [e for e in read_journal(north / "work" / "journal.jsonl") if isinstance(e, Refused)]
    assert str(north / "xrays") in refused[0].reason


@pytest.mark.parametrize("made", [False, True])
def test_a_preparation_that_failed_is_not_in_the_way(
    tmp_path: Path, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(simulations.prepare, "deal", Mock(side_effect=DataError("none")))
        with pytest.raises(DataError, match="none"):
            prepare(tiny_scenario("shared"), folder)
    prepare(tiny_scenario("shared"), folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


_KILLED = """
import os, signal, sys
from pathlib import Path
import simulations.prepare
from tests.simulations.tiny import tiny_scenario
simulations.prepare.deal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
simulations.prepare.prepare(tiny_scenario("shared"), Path(sys.argv[1]))
"""


def test_a_preparation_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    folder, own = tmp_path / "run", tmp_path / "own"
    own.mkdir()
    (own / "letter").touch()
    for place in (folder, own):
        done = subprocess.run([sys.executable, "-c", _KILLED, place], cwd=_TOP, check=False)
        assert done.returncode == -signal.SIGKILL
    prepare(tiny_scenario("shared"), folder)
    assert (folder / "study.toml").exists()
    with pytest.raises(KeyFileError, match="no key is ever overwritten"):
        prepare(tiny_scenario("shared"), own)  # what it did not make it does not take away
    assert (own / "letter").exists()


@pytest.mark.slow
def test_a_wrong_passphrase_and_another_key_are_told_apart(tmp_path: Path) -> None:
    for name in ("run", "other"):
        prepare(tiny_scenario("shared", training={"rounds": 1}), tmp_path / name)
    hospitals = tmp_path / "run" / "sites"
    (hospitals / "north" / "passphrase").write_text("wrong")
    for file in ("private.key", "passphrase"):
        source = tmp_path / "other" / "sites" / "west" / file
        shutil.copy(source, hospitals / "west" / file)
    with pytest.raises(QuorumError, match="1 of 3 sites answered, 2 are needed"):
        run_without_report(tmp_path / "run")
    assert _failed(tmp_path / "run") == {("north", "passphrase"), ("west", "key-mismatch")}


def test_parameters_that_became_nan_are_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext", training={"rounds": 1}), tmp_path / "run")
    trained: list[int] = []
    train = sites.hospital.train_locally

    def train_badly(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = train(model, *arguments, **options)
        trained.append(1)
        if len(trained) == 2:  # the second site, north
            next(model.parameters()).data.fill_(np.nan)
        return result

    monkeypatch.setattr(sites.hospital, "train_locally", train_badly)
    run_without_report(tmp_path / "run")
    assert _failed(tmp_path / "run") == {("north", "not-finite")}


def test_a_site_answers_a_round_once_and_no_earlier_one(tmp_path: Path) -> None:
    study = prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    site = SiteFile.read(tmp_path / "run" / "sites" / "north" / "site.toml")
    site.work.mkdir()
    (site.work / "state.json").write_text('{"run": "ab", "round": 2}')
    with pytest.raises(PpflError, match="asked for round 1, already answered 2"):
        Hospital(site).train(Request(study.fingerprint(), "ab", 1))


def test_a_site_tells_nothing_of_the_end_before_it(tmp_path: Path) -> None:
    study = prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    site = SiteFile.read(tmp_path / "run" / "sites" / "north" / "site.toml")
    hospital = Hospital(site)
    for ask in (hospital.close, hospital.release):
        for number in (2, 4):
            with pytest.raises(PpflError, match=f"after round {number - 1} of 2"):
                ask(Request(study.fingerprint(), "ab", number))
    assert not (site.work / "journal.jsonl").exists()


def test_a_state_that_cannot_be_written_leaves_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    site = SiteFile.read(tmp_path / "run" / "sites" / "north" / "site.toml")
    site.work.mkdir()
    agreement = Agreement(site, study)
    agreement.remember(Request(study.fingerprint(), "ab", 2))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        agreement.remember(Request(study.fingerprint(), "ab", 3))
    with pytest.raises(PpflError, match="asked for round 1, already answered 2"):
        agreement.check_round(Request(study.fingerprint(), "ab", 1))


def test_the_command_line_ends_with_a_sentence(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "xrays", counts={"Normal": 2}, size=64, seed=1)
    for arguments, sentence in (
        (("covid",), "this scenario needs X-rays"),
        (("covid", "--data", str(tmp_path / "none")), "no such folder"),
        (("covid", "--data", str(tmp_path)), "no starting|weights|image"),
        (("quickstart", "--sites", "2"), "named in the scenario"),
        (("quickstart", "--set", "value_bits=99"), "encryption.value_bits"),
        (("quickstart", "--set", "minimum_sites=9"), "only 3 are named"),
        (("quickstart", "--set", "architecture=inception_v3", "--set", "size=64"), "cannot take"),
        (("quickstart", "--resume", str(tmp_path)), "holds no run to resume"),
        (("--resume", str(tmp_path), "--rounds", "9", "--set", "seed=2"), "--rounds and --set"),
        (("--resume", str(tmp_path), "--hold-out", "a"), "cannot be given with --resume"),
    ):
        out = () if "--resume" in arguments else ("--out", str(tmp_path / "run"))
        with pytest.raises(PpflError, match=sentence):
            CliRunner().invoke(_app, ["simulate", *arguments, *out], catch_exceptions=False)
        assert not (tmp_path / "run" / "study.toml").exists()


def test_a_full_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/study.toml")

    scenario = tmp_path / "tiny.toml"
    scenario.write_text(
        tomli_w.dumps(tiny_scenario("unsafe_plaintext").model_dump(mode="json", exclude_none=True))
    )
    monkeypatch.setattr(Path, "write_text", write)
    arguments = ["simulate", str(scenario), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["ppfl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 60
    assert "ppfl: /runs/study.toml: No space left on device\n" in capsys.readouterr().err
