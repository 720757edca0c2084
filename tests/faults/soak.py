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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from ppfl.federation.journal import SiteAskedAgain, SiteFailed, StudyStarted
from tests.deployed import connect
from tests.faults.memory import MOST_MB, SURE_MB, Growth, Sample, growth_of, take_samples
from tests.faults.run import draft
from tests.live.check import check_model, replay_of
from tests.live.federation import COORDINATOR, LiveFederation, prepare
from tests.live.line import Line
from tests.live.replay import rounds_of

_PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
_LONG_S = 1800.0  # a round's; one that hangs is a failure, a busy machine is not
_EVERY_S = 0.25
_HELD_S = 20.0  # a stopped process or a cut line; Flower gives either up after a minute
_SITES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
_PROGRAMS = {
    COORDINATOR: ("superlink", "gateway", "superexec", "serverapp"),
    "site": ("supernode", "superexec", "clientapp"),
}  # beside these a dashboard runs, which no study needs


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


@dataclass(frozen=True, slots=True)
class Played:
    """A round of a soak: the fault that was drawn for it, whether it struck, and what it took."""

    number: int
    blow: Blow | None
    struck: bool
    seconds: float

    def __str__(self) -> str:
        """The round as a line of progress."""
        what = "nothing" if self.blow is None else str(self.blow)
        if self.blow is not None and not self.struck:
            what = f"came too late: {what}"
        return f"round {self.number}: {self.seconds:.0f} s; {what}"


@dataclass(slots=True)
class Soak:
    """What a run gathers: its rounds with their faults, and the memory of its processes."""

    rounds: list[Played] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def __str__(self) -> str:
        """What it has done so far, in one line."""
        struck = Counter(played.blow.how for played in self.rounds if played.blow and played.struck)
        told = ", ".join(f"{how} {count}" for how, count in sorted(struck.items())) or "none"
        late = sum(played.blow is not None and not played.struck for played in self.rounds)
        return (
            f"{len(self.rounds)} rounds closed in {sum(p.seconds for p in self.rounds):.0f} s; "
            f"faults that struck: {told}; that came too late: {late}; "
            f"{len(self.samples)} samples of memory"
        )


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
    """0 if the model is right and the memory of every process is flat."""
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
        try:
            _endure(live, lines, arguments.seed, soak)
        finally:
            print(soak, flush=True)
        seconds = time.monotonic() - began
        print(f"ended after {seconds:.0f} s; now the replay", flush=True)
        equal = check_model(live, replay_of(prepared, cache=root / "cache"))
        growth = growth_of(soak.samples)
        text = _page(live, soak, growth, seed=arguments.seed, seconds=seconds, equal=equal)
    if not finish(text, growth, page=_PAGE if arguments.write else None):
        return 1
    shutil.rmtree(root)
    return 0


def finish(text: str, growth: Sequence[Growth], *, page: Path | None) -> bool:
    """Print what a soak came to, and write its page, if one is wanted, where all memory is flat.

    Whether it is.
    """
    print(text, flush=True)
    bad = [f"{each.role} {verdict}" for each in growth if (verdict := each.verdict())]
    for line in bad:
        print(line, flush=True)
    if page is not None and bad:
        print(f"{page} is left as it was", flush=True)
    elif page is not None:
        page.write_text(text, encoding="utf-8")
        print(f"{page} is written", flush=True)
    return not bad


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sites", type=int, default=8, choices=range(2, len(_SITES) + 1))
    parser.add_argument("--write", action="store_true", help="write docs/soak.md")
    return parser.parse_args()


def _endure(live: LiveFederation, lines: dict[str, Line], seed: int, soak: Soak) -> None:
    """Go through all rounds.

    Raises:
        AssertionError: a round does not end, or a command has ended by itself.
    """
    rounds = live.study.training.rounds
    blows = draw_blows(seed, rounds=rounds, sites=live.sites)
    for number, blow in enumerate(blows, start=1):
        began = time.monotonic()
        struck = blow is not None and _strike(live, lines, blow, number)
        live.wait_for(partial(live.has_closed, number), seconds=_LONG_S, every_s=_EVERY_S)
        soak.samples += take_samples(live, number)
        soak.rounds.append(Played(number, blow, struck, time.monotonic() - began))
        print(soak.rounds[-1], flush=True)
        for site in filter(live.has_ended, live.sites):
            raise AssertionError(f"{site} ended by itself: {live.said(site)}")
    live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S, every_s=_EVERY_S)


def _strike(live: LiveFederation, lines: dict[str, Line], blow: Blow, number: int) -> bool:
    """Strike while a site trains in the round, and mend what does not mend itself.

    Whether it was struck: it is not if the round is closed before.
    """
    trains = blow.where if blow.where in live.sites else live.sites[0]
    struck: list[psutil.Process] = []

    def attempt() -> bool:
        if live.has_closed(number):
            return True
        if not live.is_in(trains, "train", number):
            return False
        process = live.find(blow.where, blow.program or "command")
        with suppress(psutil.Error):
            if process is not None:
                if blow.program:
                    process.send_signal(signal.SIGKILL if blow.how == "kill" else signal.SIGSTOP)
                struck.append(process)
        return bool(struck)

    live.wait_for(attempt, seconds=_LONG_S, every_s=0.05)
    if not struck:
        return False
    if blow.how == "power":
        live.kill(blow.where)
        live.start(blow.where)
    elif blow.how == "cut":
        lines[blow.where].cut()
        live.hold(_HELD_S, every_s=_EVERY_S)
        lines[blow.where].mend()
    elif blow.how == "stop":
        live.hold(_HELD_S, every_s=_EVERY_S)
        with suppress(psutil.NoSuchProcess):
            struck[0].resume()
    return True


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
    struck = "\n".join(f"| {p.number} | {p.blow} |" for p in soak.rounds if p.struck)
    memory = "\n".join(
        f"| {g.role} | {g.processes} | {g.samples} | {g.lowest:.0f}-{g.highest:.0f} | {_slope(g)} |"
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
process that was killed is followed by another, so there are more than run at one time; where none
lasted long enough, there is no slope, and nothing is known of its growth. The command fails where
a slope lies above {MOST_MB:g} MB a round by more than two standard errors, or may lie above
{SURE_MB:g}.

| process | seen | samples | MB | MB a round |
|---|---|---|---|---|
{memory}

## Faults

Each struck while the site trained (at the coordinator: while the first site did).

| round | what |
|---|---|
{struck}
"""


def _slope(growth: Growth) -> str:
    if growth.slope is None or growth.error is None:
        return "not known"
    return f"{growth.slope:+.2f} ± {2 * growth.error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
