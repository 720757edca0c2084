"""What a run of Flower brings along: nothing that lies about, and at a site nothing but one FAB."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk

import sites.client_app
from ppfl.errors import ApprovalError
from ppfl.federation import read_events
from ppfl.federation.journal import Refused
from ppfl.settings import SiteFile
from simulations.local_grid import LocalGrid
from sites.bundle import app_bundle, write_app
from sites.client_process import _Brought
from sites.messages import read_answer
from sites.requests import Refusal

_ROOT = Path(__file__).parents[2]
_LYING_ABOUT = (
    *("private.key", "passphrase", "site.toml", "study.toml", "alpha.card", "alpha.kit"),
    *("alpha/supernode.key", "alpha/site.toml", "alpha/work/journal.jsonl", "tls/ca.key"),
    *("runs/first/journal.jsonl", "runs/first/study.toml", "runs/first/checkpoint.bin"),
    *("xrays/Normal/Doe-1.png", "xrays/labels.json", "xrays/labels.csv", "xrays/Doe.dcm"),
    *("notes.json", "notes.md", "notes.yaml", "notes.py", "simulations/notes.toml"),
)


def _lay_about(folder: Path) -> None:
    for name in _LYING_ABOUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Doe")


def _names(bundle: bytes) -> list[str]:
    with ZipFile(BytesIO(bundle)) as fab:
        return fab.namelist()


def test_the_coordinators_bundle_is_one_file_wherever_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = app_bundle()
    _lay_about(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert app_bundle() == bundle
    assert _names(bundle) == ["pyproject.toml", ".info/CONTENT"]


def test_the_bundle_of_flwr_run_holds_nothing_that_lies_about(tmp_path: Path) -> None:
    for path in (*_ROOT.glob("*.*"), _ROOT / "LICENSE", _ROOT / ".gitignore"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    for package in ("ppfl", "sites", "coordinator", "simulations"):
        shutil.copytree(_ROOT / package, tmp_path / package)
    _lay_about(tmp_path)
    bundle = build_fab_from_disk(tmp_path)
    assert _names(bundle) == ["pyproject.toml", "README.md", ".info/CONTENT"]
    assert bundle == build_fab_from_disk(tmp_path)


def test_flower_builds_the_same_bundle_from_the_folder_that_a_simulation_runs(
    tmp_path: Path,
) -> None:
    """The installed packages have no pyproject.toml beside them, so theirs cannot be it."""
    write_app(tmp_path / "app")
    assert build_fab_from_disk(tmp_path / "app") == app_bundle()


def _answer(app: Any, folder: Path) -> Message:
    """What an app answers to a message that is no request."""
    LocalGrid(sites.client_app.app, sites=1)  # Flower makes messages only inside a task
    content = RecordDict({"config": ConfigRecord({"what": "is none of ours"})})
    context = Context(1, 1, {"site-file": str(folder / "site.toml")}, RecordDict(), {})
    answer = app(message=Message(content, dst_node_id=1, message_type="train"), context=context)
    assert isinstance(answer, Message)
    return answer


def test_a_site_loads_its_own_app_for_the_one_bundle_only(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SiteFile(name="alpha", data=tmp_path).to_toml())
    brought = _Brought()
    brought.take(app_bundle(), skip_prompt=True)
    assert brought.app("ppfl/ppfl", "1.0.0", "") is sites.client_app.app
    for other in (b"", app_bundle()[:-1], build_fab_from_disk(_ROOT)):
        brought.take(other, skip_prompt=True)
        answer = _answer(brought.app("ppfl/ppfl", "1.0.0", ""), tmp_path)
        sentence = ApprovalError.public_sentence
        assert read_answer(answer.content) == Refusal("alpha", "approval", sentence)
    refused = list(read_events(tmp_path / "work" / "journal.jsonl", Refused))
    assert [event.code for event in refused] == ["approval"] * 3
    assert all("this site answers to" in event.reason for event in refused)


def test_a_site_that_cannot_read_its_own_settings_refuses_all_the_same(tmp_path: Path) -> None:
    brought = _Brought()
    brought.take(b"code", skip_prompt=True)
    answer = _answer(brought.app(), tmp_path)
    assert read_answer(answer.content) == Refusal("", "approval", ApprovalError.public_sentence)
