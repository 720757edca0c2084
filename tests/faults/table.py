"""docs/faults.md: what came of each fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.faults.cases import FAULTS, STRUCK, Fault
from tests.faults.run import Outcome

_PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
_HEAD = """\
# Faults

What goes wrong between hospitals, and what becomes of the study. The table is made by
`python -m tests.faults`: for each row it sets a federation of three sites up as
[deployment.md](deployment.md) does, with TLS, the gateway and a 2048-bit key, starts
`ppfl coordinator run` and three times `ppfl site run`, and strikes at the moment that is named. The
network is small (ShuffleNet 0.5, three rounds), because nothing of this depends on its size.

In every row the study ended in the right model. “Right” means: the total of each round, opened, is
bit for bit the average of those sites which the journal says are in it, as a replay computes it
without processes, messages or encryption; the last one is the model that every site keeps. No
site is in a round twice, no round is closed twice, and none that was closed is done again.

`{struck}` is the site that is struck. “Seconds lost” is against the first row, on {cores} cores for
the coordinator and all sites; most of them are Flower's: it takes a process or a site for lost
after two missed signs of life of 30 s. Each row was run once, so a busy machine is in them, too.
`flower-8` is Flower's code for a process that was lost, `flower-5` for a site, `flower-3` for a
message; “round 4” is the question after the last round, in which the sites open its sum.

| what | when | at the coordinator | at the sites | seconds lost | totals opened and right |
|---|---|---|---|---|---|
"""


def write_page(outcomes: Sequence[Outcome], *, cores: int) -> None:
    """Write the page from what came of every fault, in order; the first is that there was none."""
    usual = outcomes[0].seconds
    rows = [_row(*pair, usual) for pair in zip(FAULTS, outcomes, strict=True)]
    text = _HEAD.format(struck=STRUCK, cores=cores) + "\n".join(rows) + "\n"
    _PAGE.write_text(text, encoding="utf-8")


def _row(fault: Fault, outcome: Outcome, usual: float) -> str:
    lost = outcome.seconds - usual
    cells = (
        fault.what,
        fault.moment,
        "<br>".join(outcome.coordinator) or "nothing",
        "<br>".join(outcome.sites) or "nothing",
        f"{lost:.0f}" if lost else f"0 (the study takes {usual:.0f} s)",
        f"{outcome.equal} of {outcome.rounds}",
    )
    return f"| {' | '.join(cells)} |"
