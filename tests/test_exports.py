"""`ppfl export`: what other programs read of a run."""

from __future__ import annotations

import csv
import errno
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from typer.testing import CliRunner

import simulations.program
from ppfl.errors import DiskFullError, RunError, SettingsError
from ppfl.federation import read_journal
from ppfl.federation.journal import RoundStarted, StudyFailed
from ppfl.report import summarise
from ppfl.report.exports import Export
from simulations.main import _app
from tests.coordinator.dashboard.studies import (
    CLASSES,
    SITES,
    answered,
    closed,
    released,
    started,
    study,
    write,
)

_PAGE = (Path(__file__).parents[1] / "docs" / "journal.md").read_text(encoding="utf-8")


def _export(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(_app, ["export", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _series(folder: Path) -> dict[str, dict[int, float]]:
    """By tag, the values by step, as TensorBoard reads them."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tags = found.Tags()["tensors"]
    return {
        tag: {event.step: float(make_ndarray(event.tensor_proto)) for event in found.Tensors(tag)}
        for tag in tags
    }


def test_the_tables_are_those_of_the_report_and_one_of_classes_and_of_sites(tmp_path: Path) -> None:
    write(tmp_path, *study())
    told = _export(str(tmp_path))
    assert told["rounds"] == 4
    tables = [tmp_path / f"{name}.csv" for name in ("metrics", "classes", "sites")]
    assert told["tables"] == [str(path) for path in tables]
    rounds, classes, sites = tables
    assert rounds.read_text() == summarise(read_journal(tmp_path / "journal.jsonl")).to_csv()
    figure = 1 - 0.6 * 0.7**2
    assert float(_rows(rounds)[1]["accuracy"]) == pytest.approx(figure)
    found = _rows(classes)
    assert len(found) == 6 * len(CLASSES)  # with the starting model's, and the test's
    (row,) = [r for r in found if (r["round"], r["split"], r["class"]) == ("4", "test", "COVID")]
    assert float(row["auroc"]) == pytest.approx(1 - 0.6 * 0.7**4)
    assert [(row["round"], row["site"]) for row in _rows(sites)] == [
        (str(number), site) for number in range(1, 5) for site in SITES
    ]
    assert (_rows(sites)[0]["train_s"], _rows(sites)[0]["bytes_up"]) == ("16.0", "7200000")


def test_event_files_for_which_there_is_no_room_leave_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *study())
    _export(str(tmp_path), "--tensorboard")
    (file,) = (tmp_path / "tensorboard").iterdir()
    before = file.read_bytes()
    # the writer's thread meets the full disk at the last figures, which close() does not tell
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("tensorboard.summary.Writer.flush", Mock(side_effect=full))
    ended = CliRunner().invoke(_app, ["export", str(tmp_path), "--tensorboard"])
    assert isinstance(ended.exception, DiskFullError)
    assert list((tmp_path / "tensorboard").iterdir()) == [file]
    assert file.read_bytes() == before


def test_tensorboard_reads_back_each_figure_at_its_round_and_time(tmp_path: Path) -> None:
    write(tmp_path / "run", *study())
    out = tmp_path / "out"
    for _ in range(2):  # the second export takes the place of the first
        told = _export(str(tmp_path / "run"), "--tensorboard", "--out", str(out))
    assert told == {"rounds": 4, "tensorboard": str(out / "tensorboard")}
    (file,) = (out / "tensorboard").iterdir()
    found = _series(file)
    expected = {number: pytest.approx(1 - 0.6 * 0.7**number) for number in range(5)}
    assert found["federation/accuracy"] == expected
    assert found["class/Normal/auroc"] == expected
    assert found["test/accuracy"] == {4: expected[4]}
    assert found["test/class/COVID/auroc"] == {4: expected[4]}
    assert found["seconds/train"] == dict.fromkeys(range(1, 5), 16.0)
    assert found["seconds/round"] == dict.fromkeys(range(1, 5), 20.0)
    assert found["bytes/up"] == dict.fromkeys(range(1, 5), 7_200_000)
    assert found["site/north/seconds"] == dict.fromkeys(range(1, 5), pytest.approx(18.35))
    events = EventAccumulator(str(file)).Reload().Tensors("seconds/round")
    (last,) = [e for e in read_journal(tmp_path / "run" / "journal.jsonl") if _closes(e, 4)]
    assert events[-1].wall_time == pytest.approx(last.time.timestamp())


def test_personal_models_have_figures_of_their_own(tmp_path: Path) -> None:
    *before, end = study()
    personal = released(4, split="personal")
    classes = {name: row | {"auroc": 0.125} for name, row in personal.metrics["classes"].items()}
    figures = personal.metrics | {"accuracy": 0.25, "classes": classes}
    personal = personal.model_copy(update={"metrics": figures})
    write(tmp_path, *before, personal, end)
    _export(str(tmp_path), "--csv", "--tensorboard")
    found = _series(tmp_path / "tensorboard")
    assert found["federation/accuracy"][4] == pytest.approx(1 - 0.6 * 0.7**4)
    assert found["class/COVID/auroc"][4] == pytest.approx(1 - 0.6 * 0.7**4)
    assert found["personal/accuracy"] == {4: pytest.approx(0.25)}
    assert found["personal/class/COVID/auroc"] == {4: pytest.approx(0.125)}
    summary = summarise(read_journal(tmp_path / "journal.jsonl"))
    assert (tmp_path / "metrics.csv").read_text() == summary.to_csv()


def _closes(event: Any, number: int) -> bool:
    return event.event == "round_closed" and event.round == number


def test_a_round_that_was_done_again_is_there_once_and_an_earlier_run_is_not(
    tmp_path: Path,
) -> None:
    inside = ("harbour", "valley")
    write(
        tmp_path,
        *study(run="before", rounds=6),
        *list(study(run="a1", rounds=3))[:-3],
        StudyFailed(round=3, code="spoiled-total", sentence="refused"),
        started(resumed_after=2),
        RoundStarted(round=3, sites=SITES),
        *(answered(3, site, seconds={"train": 5.0}) for site in inside),
        closed(3, inside),
        released(3, inside),
        RoundStarted(round=4, sites=SITES),
        answered(4, "north"),
    )
    _export(str(tmp_path), "--csv", "--tensorboard")
    assert [row["round"] for row in _rows(tmp_path / "metrics.csv")] == ["1", "2", "3"]
    third = [row for row in _rows(tmp_path / "sites.csv") if row["round"] == "3"]
    assert [(row["site"], row["train_s"]) for row in third] == [(site, "5.0") for site in inside]
    found = _series(tmp_path / "tensorboard")
    assert found["sites/in_total"] == {1: 3.0, 2: 3.0, 3: 2.0}
    assert sorted(found["site/north/clipped"]) == [1, 2]
    assert sorted(found["federation/accuracy"]) == [0, 1, 2, 3]


def test_a_round_that_lacks_an_answer_is_left_out(tmp_path: Path) -> None:
    second = RoundStarted(round=2, sites=SITES), answered(2, "north"), closed(2)
    write(tmp_path, *list(study(rounds=1))[:-3], *second)
    export = Export(tmp_path / "journal.jsonl")
    assert [r.number for r in export.rounds] == [1]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="no such journal"):
        Export(tmp_path / "journal.jsonl")
    export = Export(write(tmp_path, started()) / "journal.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        export.write_tables(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        export.write_event_files(tmp_path / "file")
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(SettingsError) as caught:
        export.write_event_files(tmp_path / "events")
    assert ".[tensorboard]" in caught.value.hint


def test_the_installed_program_exports_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, *study())
    monkeypatch.setattr(sys, "argv", ["ppfl", "export", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        simulations.program.main()
    assert ended.value.code == 0
    assert "rounds: 4" in capsys.readouterr().out
    code = "import sys, coordinator.export_command; print('torch' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "False\n"


def test_the_page_lists_every_tag(tmp_path: Path) -> None:
    events = *study(), released(4, split="personal")
    Export(write(tmp_path, *events) / "journal.jsonl").write_event_files(tmp_path)
    rows = re.findall(r"^\| `(\w+/\S+)` \| (.*) \|$", _PAGE, re.MULTILINE)
    names = "|".join((*CLASSES, *SITES))
    found = {re.sub(f"/({names})/", "/", tag) for tag in _series(tmp_path)}
    wanted = {
        re.sub("/(CLASS|SITE)/", "/", tag).replace("FIGURE", name) for tag, name in _told(rows)
    }
    assert found <= wanted
    assert {tag.split("/")[0] for tag in found} == {tag.split("/")[0] for tag in wanted}


def _told(rows: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for tag, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            yield tag, name
