"""Runs of several: all sites took part or it is no result; a folder is made by one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import simulations.outcome
import simulations.runner
import sites.hospital
from ppfl.errors import DiskFullError, NotFiniteError, PpflError, RunError
from ppfl.federation import iterate_journal
from ppfl.files import lock_file
from ppfl.settings import Study
from simulations.comparison.compare import compare_run
from simulations.outcome import absence, finish_run, prepare_or_resume, remove_run, run_to_end
from simulations.prepare import PREPARING
from simulations.scenario import Scenario
from sites.hospital import site_seed
from tests.simulations.tiny import prepare_once, tiny_scenario


def _scenario(least: int) -> Scenario:
    return tiny_scenario(
        "unsafe_plaintext",
        images={"test": 0.4},
        training={"rounds": 1},
        federation={"minimum_sites": least},
    )


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulations.runner, "leave_report", lambda _: None)


@contextmanager
def _north_fails(run: Path, error: Exception) -> Iterator[None]:
    train = sites.hospital.train_locally
    north = site_seed(Study.read(run / "study.toml"), "north")

    def train_or_fail(*arguments: Any, **options: Any) -> Any:
        if options["seed"] == north:
            raise error
        return train(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sites.hospital, "train_locally", train_or_fail)
        yield


def _absence(folder: Path) -> PpflError | None:
    study = Study.read(folder / "study.toml")
    return absence(iterate_journal(folder / "journal.jsonl"), study)


def test_a_federation_that_lacked_a_site_is_no_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare_once(_scenario(least=2), run)
    with _north_fails(run, NotFiniteError("NaN")):
        finish_run(run)
    assert isinstance(_absence(run), NotFiniteError)
    with pytest.raises(NotFiniteError, match="north was not in round 1: The site's training"):
        run_to_end(run)
    # who asked for that federation is told
    (warning,) = compare_run(run, [], lambda _: None).warnings
    assert warning.startswith("north was left out of 1 of 1 rounds")


def test_where_too_few_answer_it_is_for_a_sites_reason(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare_once(_scenario(least=3), run)
    for error, kind in ((MemoryError(), PpflError), (DiskFullError("no room"), DiskFullError)):
        with _north_fails(run, error), pytest.raises(PpflError) as caught:
            finish_run(run)
        assert type(caught.value) is kind
    # gone on with, the round was made anew, with all
    assert len(run_to_end(run).predictions) == 3
    assert _absence(run) is None


def test_a_run_that_was_half_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, run = _scenario(least=2), tmp_path / "run"
    prepare_or_resume(scenario, run)
    (run / "left").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before it began
    remove_run(run)
    monkeypatch.undo()
    prepare_or_resume(scenario, run)
    assert not (run / "left").exists()
    remove_run(run)
    assert not run.exists()
    remove_run(run)


def test_a_folder_that_another_process_prepares_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "private.key").write_text("another's")
    with lock_file(tmp_path / "run" / PREPARING), pytest.raises(RunError, match="in use"):
        prepare_or_resume(_scenario(least=2), tmp_path / "run")
    assert (tmp_path / "run" / "private.key").exists()
    prepare_or_resume(_scenario(least=2), tmp_path / "run")  # that one was killed
    assert not (tmp_path / "run" / "private.key").exists()
