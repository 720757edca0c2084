"""Runs a study under a fault, checks its model, and says what happened at both ends."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeGuard

from ppfl.federation.journal import (
    AnyEvent,
    LeftHospital,
    Refused,
    SiteAskedAgain,
    SiteFailed,
    StudyFailed,
    StudyStarted,
)
from ppfl.settings import Study, check_settings
from tests.deployed import Deployed, connect
from tests.faults.cases import SITES, STRUCK, Fault
from tests.live.check import check_model, check_secrets
from tests.live.federation import COORDINATOR, LiveFederation
from tests.live.line import Line
from tests.live.replay import Replay, rounds_of

_LONG_S = 3600.0  # a study that hangs is a failure, one on a busy machine is not


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fault, by its name.

    ``coordinator`` and ``sites`` are what their journals and supervisors say, ``seconds`` from the
    start of the first process to the end of the study; ``equal`` of ``rounds`` totals were opened
    and are the replay's average, bit for bit.
    """

    fault: str
    coordinator: tuple[str, ...]
    sites: tuple[str, ...]
    seconds: float
    equal: int
    rounds: int

    def write(self, folder: Path) -> None:
        """Write it to a file of its own."""
        text = json.dumps(asdict(self), indent=1)
        (folder / f"{self.fault}.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, fault: str) -> Self | None:
        """What came of a fault before, None if nothing did."""
        path = folder / f"{fault}.json"
        if not path.exists():
            return None
        table = json.loads(path.read_text(encoding="utf-8"))
        told = {name: tuple(table.pop(name)) for name in ("coordinator", "sites")}
        return cls(**table, **told)


def draft(
    *,
    deadline_s: float,
    rounds: int = 3,
    sites: tuple[str, ...] = SITES,
    local_epochs: int = 15,
    architecture: str = "shufflenet_v2_x0_5",
) -> Study:
    """A study that is small in everything but its key."""
    table = {
        "name": "faults",
        "classes": ["Normal", "Effusion"],
        "images": {"size": 64},
        "model": {"architecture": architecture},
        "training": {"rounds": rounds, "batch_size": 8, "local_epochs": local_epochs},
        "federation": {"sites": list(sites), "release_floor": 1, "deadline_s": deadline_s},
    }
    return check_settings(table, Study, where="draft")


def run_fault(fault: Fault, prepared: Deployed, replay: Replay, root: Path) -> Outcome:
    """What came of a fault, after the study has ended in the right model.

    Raises:
        AssertionError: it has not, or another site or round is missing than should be, or a site
            trained anew what it had sealed.
    """
    with (
        LiveFederation(prepared, root) as live,
        Line(live.port, bits_per_s=fault.bits_per_s) as line,
    ):
        connect(live.deployed.site(STRUCK), threads=1, port=line.port)
        began = time.monotonic()
        live.start_all(but=STRUCK)
        if not fault.late:
            live.start(STRUCK, inside=_inside(fault, live))
        fault.strike(live, line)
        live.wait_for(lambda: live.has_closed(0), seconds=_LONG_S)
        seconds = time.monotonic() - began
        equal = check_model(live, replay)
        check_secrets(live)
        rounds = rounds_of(live.events())
        missing = {played.number for played in rounds if STRUCK not in played.contributors}
        assert set(fault.missing) <= missing <= {*fault.missing, *fault.may_miss}
        for other in set(live.sites) - {STRUCK}:
            assert all(other in played.contributors for played in rounds)
        if fault.once:
            for site in live.sites:
                assert max(_trained(live, site).values()) == 1, f"{site} trained a round twice"
        return Outcome(fault.name, _coordinator(live), _sites(live), seconds, equal, len(rounds))


def _inside(fault: Fault, live: LiveFederation) -> tuple[str, ...]:
    if not fault.inside:
        return ()
    work = live.deployed.site(STRUCK) / "work"
    work.mkdir()
    return (*fault.inside, str(work))


def _coordinator(live: LiveFederation) -> tuple[str, ...]:
    told, runs = _started_again(live, COORDINATOR), 0
    for event in live.events():
        match event:
            case StudyFailed():
                told.append(f"broke off after round {event.round}: {event.code}")
            case StudyStarted():
                runs += 1
                if runs > 1:
                    told.append(f"went on after round {event.resumed_after}")
            case SiteAskedAgain():
                told.append(f"asked {event.site} again in round {event.round} ({event.code})")
            case SiteFailed():
                told.append(f"round {event.round} without {event.site} ({event.code})")
    return tuple(dict.fromkeys(told))


def _sites(live: LiveFederation) -> tuple[str, ...]:
    told: list[str] = []
    for site in live.sites:
        told += (f"{site}: {text}" for text in _started_again(live, site))
        for event in live.site_events(site):
            if isinstance(event, Refused):
                told.append(f"{site}: refused in round {event.round} ({event.code})")
            elif is_update(event) and event.again:
                told.append(f"{site}: sent round {event.round} again, not trained again")
        trained = _trained(live, site)
        told += (f"{site}: trained round {n} {c} times" for n, c in trained.items() if c > 1)
    return tuple(dict.fromkeys(told))


def _trained(live: LiveFederation, site: str) -> Counter[int]:
    """How often a site made an update, by the round."""
    updates = (event for event in live.site_events(site) if is_update(event))
    return Counter(event.round for event in updates if not event.again)


def is_update(event: AnyEvent) -> TypeGuard[LeftHospital]:
    """Whether an event of a site's journal says that an update was sent."""
    return isinstance(event, LeftHospital) and bool(event.items) and "update" in event.items[0].what


def _started_again(live: LiveFederation, where: str) -> list[str]:
    return [
        f"{name} was started {count} times"
        for name, count in live.starts(where).items()
        if count > 1
    ]
