from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

import sites.answering
from ppfl.settings import SiteFile, Study

_HANG_IN_C = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"  # holds the interpreter for years
_HANG = "import time; time.sleep(60)"


@pytest.mark.parametrize("hang", [_HANG, _HANG_IN_C])
def test_a_process_that_hangs_ends_and_says_where(hang: str) -> None:
    code = f"from sites.deadline import ends_after\nwith ends_after(0.2):\n    {hang}"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert 'File "<string>", line 3' in ended.stderr


def test_a_process_that_is_in_time_goes_on() -> None:
    code = (
        "import time\nfrom sites.deadline import ends_after\n"
        "with ends_after(1):\n    pass\ntime.sleep(1.5)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


@pytest.mark.parametrize(("config", "expected"), [("site-file", [35.0]), ("partition-id", [])])
def test_a_clientapp_with_its_own_process_ends_after_the_studys_deadline(
    config: str, expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(sites.answering, "ends_after", lambda s: seconds.append(s) or nullcontext())
    study = SimpleNamespace(federation=SimpleNamespace(deadline_s=5.0))
    monkeypatch.setattr(Study, "read", lambda _: study)
    site = SiteFile(name="a", data=tmp_path)
    context = Context(1, 1, {config: "0"}, RecordDict(), {})
    with sites.answering._ending_late(site, context):
        pass
    assert seconds == expected
