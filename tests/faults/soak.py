"""Many rounds, many sites, and random faults all the while: does it end, in the right model?

python -m tests.faults.soak --seed 1 --rounds 30 --sites 8
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from ppfl.federation.journal import SiteAskedAgain, SiteFailed, StudyStarted
from tests.deployed import connect
from tests.faults.memory import Growth, Sample, growth_of, take_samples
from tests.faults.run import draft
from tests.live.check import check_model, replay_of
from tests.live.federation import COORDINATOR, LiveFederation, prepare
from tests.live.line import Line
from tests.live.replay import rounds_of

_PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
_LONG_S = 1800.0  # a round's; one that hangs is a failure, a busy machine is not
_EVERY_S = 0.25
_HELD_S = 20.0  # a stopped process or a cut line; Flower gives either up after a minute
_MOST_MB = 1.0  # a round; what grows slower is not told from noise in 30 rounds
_SITES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
_PROGRAMS = {
    COORDINATOR: ("superlink", "gateway", "superexec", "serverapp"),
    "site": ("supernode", "superexec", "clientapp"),
}


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: how (`kill`, `stop`, `cut`, `power`), at whom, and which program if one."""

    how: str
    where: str
    program: str = ""

    def __str__(self) -> str:
        """The fault as the page has it."""
        return {
            "kill": f"`kill -9` of {self.where}'s {self.program}",
            "stop": f"{self.where}'s {self.program} stopped for {_HELD_S:g} s",
            "cut": f"{self.where}'s line cut for {_HELD_S:g} s",
            "power": f"`kill -9` of {self.where}'s whole command, started again",
        }[self.how]


@dataclass(slots=True)
class Soak:
    """What a run gathers: the faults that struck, and the memory of its processes."""

    blows: list[tuple[int, Blow]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def draw_blows(seed: int, *, rounds: int, sites: tuple[str, ...]) -> Iterator[Blow | None]:
    """One fault or none for each round, none in three of ten on the average."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        how = str(
            generator.choice(["", "kill", "stop", "cut", "power"], p=[0.3, 0.3, 0.2, 0.1, 0.1])
        )
        site = str(generator.choice(sites))
        where = site if how == "cut" else str(generator.choice([COORDINATOR, site]))
        programs = _PROGRAMS[COORDINATOR if where == COORDINATOR else "site"]
        program = str(generator.choice(programs))
        yield Blow(how, where, program if how in ("kill", "stop") else "") if how else None


def main() -> int:
    """0 if the model is right and no process grows."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the processes would be left
    torch.set_num_threads(1)  # as the sites are started: the same bits
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"files: {root}", flush=True)
    study = draft(
        deadline_s=900.0,
        rounds=arguments.rounds,
        sites=_SITES[: arguments.sites],
        local_epochs=2,
    )
    prepared = prepare(root / "prepared", study)
    soak, began = Soak(), time.monotonic()
    with LiveFederation(prepared, root / "live") as live, ExitStack() as stack:
        lines = {site: stack.enter_context(Line(live.port)) for site in live.sites}
        for site, line in lines.items():
            connect(live.deployed.site(site), threads=1, port=line.port)
        live.start_all()
        _endure(live, lines, arguments.seed, soak)
        seconds = time.monotonic() - began
        print(f"ended after {seconds:.0f} s; now the replay", flush=True)
        equal = check_model(live, replay_of(prepared, cache=root / "cache"))
        growth = growth_of(soak.samples)
        text = _page(live, soak, growth, seed=arguments.seed, seconds=seconds, equal=equal)
    print(text, flush=True)
    if arguments.write:
        _PAGE.write_text(text, encoding="utf-8")
    grown = [each.role for each in growth if each.slope - 2 * each.error > _MOST_MB]
    if grown:
        print(f"these grow: {', '.join(grown)}", flush=True)
        return 1
    shutil.rmtree(root)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sites", type=int, default=8, choices=range(2, len(_SITES) + 1))
    parser.add_argument("--write", action="store_true", help="write docs/soak.md")
    return parser.parse_args()


def _endure(live: LiveFederation, lines: dict[str, Line], seed: int, soak: Soak) -> None:
    rounds = live.study.training.rounds
    blows = draw_blows(seed, rounds=rounds, sites=live.sites)
    for number, blow in enumerate(blows, start=1):
        began = time.monotonic()
        if blow is not None and _strike(live, lines, blow, number):
            soak.blows.append((number, blow))
        live.wait_for(partial(live.has_closed, number), seconds=_LONG_S, every_s=_EVERY_S)
        soak.samples += take_samples(live, number)
        print(f"round {number}: {time.monotonic() - began:.0f} s; {blow or 'nothing'}", flush=True)
    live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S, every_s=_EVERY_S)


def _strike(live: LiveFederation, lines: dict[str, Line], blow: Blow, number: int) -> bool:
    """Strike while a site trains in the round, and mend what does not mend itself.

    Whether it was struck: it is not if the round is closed before the program is found.
    """
    trains = blow.where if blow.where in live.sites else live.sites[0]
    struck: list[psutil.Process] = []

    def attempt() -> bool:
        if not live.is_in(trains, "train", number):
            return live.has_closed(number)
        if blow.program:
            process = live.find(blow.where, blow.program)
            with suppress(psutil.Error):
                if process is not None:
                    process.send_signal(signal.SIGKILL if blow.how == "kill" else signal.SIGSTOP)
                    struck.append(process)
            return bool(struck)
        return True

    live.wait_for(attempt, seconds=_LONG_S, every_s=0.05)
    if blow.how == "power":
        live.kill(blow.where)
        live.start(blow.where)
    elif blow.how == "cut":
        lines[blow.where].cut()
        live.hold(_HELD_S, every_s=_EVERY_S)
        lines[blow.where].mend()
    elif blow.how == "stop":
        live.hold(_HELD_S, every_s=_EVERY_S)
        for process in struck:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    return bool(struck) or not blow.program


def _page(
    live: LiveFederation,
    soak: Soak,
    growth: list[Growth],
    *,
    seed: int,
    seconds: float,
    equal: int,
) -> str:
    events, sites = live.events(), len(live.sites)
    rounds = rounds_of(events)
    missing = [
        f"{site} in round {event.round} ({event.code})"
        for event in events
        if isinstance(event, SiteFailed) and (site := event.site)
    ]
    runs = sum(isinstance(event, StudyStarted) for event in events)
    again = sum(isinstance(event, SiteAskedAgain) for event in events)
    struck = "\n".join(f"| {number} | {blow} |" for number, blow in soak.blows)
    memory = "\n".join(
        f"| {g.role} | {g.processes} | {g.samples} | {g.lowest:.0f}-{g.highest:.0f} "
        f"| {g.slope:+.2f} ± {2 * g.error:.2f} |"
        for g in growth
    )
    return f"""\
# Soak

Made by `python -m tests.faults.soak --seed {seed} --rounds {len(rounds)} --sites {sites} --write`:
{len(rounds)} rounds of {sites} sites (ShuffleNet 0.5, a 2048-bit key, TLS, the gateway; every
process as `ppfl coordinator run` and `ppfl site run` start it) on one machine of
{os.cpu_count()} cores, with one random fault or none in each round.

The study ended after {seconds / 60:.0f} minutes. Its final model, and each of the {equal} totals
whose checkpoint was seen before the next took its place, is bit for bit what the replay computes
from the journal's list of contributors. {runs} runs of the ServerApp; sites were asked again
{again} times; not in a round's total: {", ".join(missing) or "none"}.

## Memory

Resident memory when a round was closed, of all processes that last; the slope is by least squares,
each process with a level of its own and without its first sample, ± two standard errors. A
process that was killed is followed by another, so there are more than run at one time.

| process | seen | samples | MB | MB a round |
|---|---|---|---|---|
{memory}

## Faults

Each struck while the site trained (at the coordinator: while the first site did).

| round | what |
|---|---|
{struck}
"""


if __name__ == "__main__":
    sys.exit(main())
