"""What `ppfl shortcuts` found, as a section of the report."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from coordinator.report_command import report_run
from ppfl.errors import RunError, SettingsError
from ppfl.report import Estimate, ShortcutsResult, SiteProbe, View, write_report, write_shortcuts
from tests.report.runs import events, write_run

_OF_RUN = "ab" * 32
_PNG = b"a picture of patients"
_SURE = Estimate(value=0.8125, low=0.75, high=0.875)


def _shortcuts(folder: Path, *, model: str = _OF_RUN) -> Path:
    folder.mkdir()
    probe = SiteProbe(
        within="COVID",
        images={"north": 60, "<south>": 40},
        accuracy=_SURE,
        chance=0.6,
        from_class=None,
        more_than_chance=_SURE,
    )
    view = View(
        view="centre black", images={"COVID": 100}, model=_SURE, auroc=0.9, probe=_SURE, chance=0.5
    )
    result = ShortcutsResult(
        classes=("COVID",),
        size=64,
        fit_images=200,
        test_images=100,
        with_lungs=0,
        probes=(probe,),
        views=(view,),
        cam=(),
        sites=(),
        one_class=(),
        notes=("it is not known where the lungs are",),
        model_sha256=model,
    )
    write_shortcuts(folder, result, _PNG)
    return folder


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_report_tells_what_was_measured_without_xrays_unless_they_are_asked_for(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", list(events()))
    measured = _shortcuts(tmp_path / "shortcuts")
    picture = base64.b64encode(_PNG).decode()
    plain = write_report(run).read_text()
    assert "was not measured" in plain
    private = write_report(run, shortcuts=measured, with_xrays=True)
    assert picture in private.read_text()
    assert "Patients" in private.read_text()
    assert _mode(private) == 0o600
    page = write_report(run, shortcuts=measured)
    text = page.read_text()
    assert "Does the model learn the hospital?" in text
    assert "81.2 [75.0, 87.5]" in text
    assert "&lt;south&gt; 40" in text
    assert "where the lungs are" in text
    assert "was not measured" not in text
    assert picture not in text
    assert _mode(page) & 0o044  # no longer that of the page with X-rays


@pytest.mark.parametrize("damage", ["another model", "no file", "garbage"])
def test_what_is_not_of_this_model_is_refused(tmp_path: Path, damage: str) -> None:
    run = write_run(tmp_path / "run", list(events()))
    measured = _shortcuts(tmp_path / "shortcuts", model="cd" * 32)
    if damage == "no file":
        (measured / "shortcuts.json").unlink()
    if damage == "garbage":
        (measured / "shortcuts.json").write_text("{")
    told = {"another model": "another model", "no file": "No such file", "garbage": "this version"}
    with pytest.raises(RunError, match=told[damage]):
        write_report(run, shortcuts=measured)
    assert not (run / "report.html").exists()


def test_the_command_wants_to_know_of_which_xrays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", list(events()))
    app = Typer()
    app.command()(report_run)
    result = CliRunner().invoke(app, [str(run), "--with-xrays"])
    assert isinstance(result.exception, SettingsError)
    measured = _shortcuts(tmp_path / "shortcuts")
    result = CliRunner().invoke(app, [str(run), "--shortcuts", str(measured)])
    assert result.exit_code == 0
    assert "hospital?" in (run / "report.html").read_text()
