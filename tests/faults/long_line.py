"""MobileNetV2 over a line of 2 Mbit/s and 200 ms: what it takes, and that none of it is lost.

python -m tests.faults.long_line --write
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ppfl.federation.journal import SiteAnswered, SiteAskedAgain
from sites.approval import code_sha256
from tests.deployed import Deployed, connect
from tests.faults.run import draft, is_update
from tests.live.check import check_model, replay_of
from tests.live.federation import LiveFederation, prepare
from tests.live.line import Line
from tests.live.replay import Replay

_PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
_BEGIN, _END = "<!-- rows of tests.faults.long_line -->\n", "<!-- end of rows -->\n"
_HEAD = """\
| line | upload, s | study, s | asked again | trained | sent again |
|---|---|---|---|---|---|
"""
_BITS_PER_S, _DELAY_S = 2e6, 0.1  # there and back: 200 ms
_SITES = ("alpha", "beta")
_FAR = _SITES[-1]
_LONG_S = 1800.0
_DOWN_S = 10.0

Strike = Callable[[LiveFederation, Line], None]


def main() -> int:
    """0 if every study ended in the right model, trained once; the page is written only then."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.long_line", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the rows in docs/deployment.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the processes would be left
    torch.set_num_threads(1)  # as the sites are started: the same bits
    root = Path(tempfile.mkdtemp(prefix="long-line-"))
    study = draft(
        deadline_s=1200.0,
        rounds=1,
        sites=_SITES,
        local_epochs=1,
        architecture="mobilenet_v2",
    )
    prepared = prepare(root / "prepared", study)
    replay = replay_of(prepared, cache=root / "cache")
    code, rows = code_sha256(), []  # sites that have joined refuse to run another
    print(_HEAD, end="", flush=True)
    for number, (what, strike) in enumerate(_CASES.items()):
        rows.append(_measure(what, strike, prepared, replay, root / str(number)))
        print(rows[-1], flush=True)
    if arguments.write:
        page = _PAGE.read_text(encoding="utf-8")
        _PAGE.write_text(put_rows(page, rows, code=code), encoding="utf-8")
    shutil.rmtree(root)
    return 0


def put_rows(page: str, rows: Sequence[str], *, code: str) -> str:
    """The page with these rows in the place of those that it has.

    Raises:
        AssertionError: the page does not have one place for them.
    """
    before, *middle = page.split(_BEGIN)
    (there,) = middle or [""]
    _, found, after = there.partition(_END)
    assert found, f"{_PAGE} has no place for the rows"
    told = (
        f"All rows are of one run on {os.cpu_count()} cores, of the code whose digest "
        f"(`approved_code`) begins with `{code[:16]}`.\n\n"
    )
    return before + _BEGIN + told + _HEAD + "".join(f"{row}\n" for row in rows) + _END + after


def _nothing(_live: LiveFederation, _line: Line) -> None:
    pass


def _cut(live: LiveFederation, line: Line) -> None:
    line.cut()
    live.hold(_DOWN_S)
    line.mend()


def _power_cut(live: LiveFederation, _line: Line) -> None:
    live.kill(_FAR)
    live.start(_FAR)


_CASES: dict[str, Strike] = {
    "whole": _nothing,
    f"cut for {_DOWN_S:g} s in the middle of the upload": _cut,
    "whole, but the site loses power in the middle of the upload": _power_cut,
}


def _measure(what: str, strike: Strike, prepared: Deployed, replay: Replay, folder: Path) -> str:
    """One row of the table, of a study of its own.

    Raises:
        AssertionError: the model is not the replay's, or the site trained twice.
    """
    with (
        LiveFederation(prepared, folder) as live,
        Line(live.port, bits_per_s=_BITS_PER_S, delay_s=_DELAY_S) as line,
    ):
        connect(live.deployed.site(_FAR), threads=1, port=line.port)
        began = time.monotonic()
        live.start_all()
        live.wait_for(lambda: live.has_sealed(_FAR, 1), seconds=_LONG_S)
        sealed, before = time.monotonic(), line.bytes_up
        live.wait_for(lambda: line.bytes_up > before + 3_000_000, seconds=_LONG_S)
        strike(live, line)
        live.wait_for(lambda: _has_answered(live), seconds=_LONG_S)
        upload_s = time.monotonic() - sealed
        live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S)
        study_s = time.monotonic() - began
        check_model(live, replay)
        left = [event.again for event in live.site_events(_FAR) if is_update(event)]
        assert left.count(False) == 1, "the site trained twice"
        asked = sum(isinstance(event, SiteAskedAgain) for event in live.events())
        return (
            f"| {what} | {upload_s:.0f} | {study_s:.0f} | {asked} times | once "
            f"| {left.count(True)} times |"
        )


def _has_answered(live: LiveFederation) -> bool:
    return any(isinstance(event, SiteAnswered) and event.site == _FAR for event in live.events())


if __name__ == "__main__":
    sys.exit(main())
