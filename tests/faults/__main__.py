"""Every fault, each in a study of its own, and the page about what came of them."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

import torch

from tests.deployed import Deployed
from tests.faults.cases import FAULTS
from tests.faults.run import Outcome, draft, run_fault
from tests.faults.table import write_page
from tests.live.check import replay_of
from tests.live.federation import prepare
from tests.live.replay import Replay


def main() -> int:
    """How many faults ended badly."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the processes would be left
    torch.set_num_threads(1)  # as the sites are started: the same bits
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    results = arguments.results or root
    results.mkdir(exist_ok=True)
    bad = 0

    @cache
    def prepared(deadline_s: float) -> tuple[Deployed, Replay]:
        deployed = prepare(root / f"prepared-{deadline_s:g}", draft(deadline_s=deadline_s))
        return deployed, replay_of(deployed, cache=root / f"cache-{deadline_s:g}")

    for fault in FAULTS:
        if arguments.faults and fault.name not in arguments.faults:
            continue
        outcome = Outcome.read(results, fault.name)
        if outcome is None:
            folder = root / fault.name
            try:
                outcome = run_fault(fault, *prepared(fault.deadline_s), folder)
            except Exception:
                print(f"{fault.name}: ended badly; its files: {folder}", flush=True)
                traceback.print_exc()
                bad += 1
                continue
            outcome.write(results)
        print(_line(outcome), flush=True)
    outcomes = [Outcome.read(results, fault.name) for fault in FAULTS]
    if all(outcomes):
        write_page([outcome for outcome in outcomes if outcome], cores=os.cpu_count() or 1)
    if not bad:
        shutil.rmtree(root)
    return bad


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument(
        "faults",
        nargs="*",
        choices=[*names, []],  # argparse looks for the empty list among them
        metavar="FAULT",
        help=f"{', '.join(names)}; without any: all of them",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="folder that keeps what came of each, which is not done again; when all are in it, "
        "docs/faults.md is written",
    )
    return parser.parse_args()


def _line(outcome: Outcome) -> str:
    told = "; ".join((*outcome.coordinator, *outcome.sites))
    return (
        f"{outcome.fault}: {outcome.seconds:.0f} s, {outcome.equal} of {outcome.rounds} totals "
        f"opened and right; {told}"
    )


if __name__ == "__main__":
    sys.exit(main())
