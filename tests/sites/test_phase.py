from __future__ import annotations

from pathlib import Path

from sites.phase import Phase, read_phase


def test_a_phase_tells_its_steps_and_its_seconds(tmp_path: Path) -> None:
    assert read_phase(tmp_path) == {}
    phase = Phase(tmp_path)
    with phase.enter("train", 3) as step:
        assert read_phase(tmp_path) == {"round": 3, "phase": "train", "done": 0, "of": 0}
        step(1, 9)  # too soon after the last to be written
        assert read_phase(tmp_path)["done"] == 0
        step(9, 9)
        assert read_phase(tmp_path) == {"round": 3, "phase": "train", "done": 9, "of": 9}
    phase.finish(3)
    assert read_phase(tmp_path)["phase"] == "done"
    assert set(phase.seconds) == {"train"}
    assert 0 <= phase.seconds["train"] < 60


def test_a_torn_file_is_no_phase(tmp_path: Path) -> None:
    (tmp_path / "phase.json").write_text('{"round": 1')
    assert read_phase(tmp_path) == {}
