"""What can go wrong between hospitals, and at which moment it is made to."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ppfl.federation.journal import RoundStarted, SiteFailed, StudyStarted
from tests.live.federation import COORDINATOR, LiveFederation
from tests.live.line import Line

SITES = ("alpha", "beta", "gamma")
STRUCK = SITES[-1]
ROUND = 2  # of three: something was complete before, and something comes after
_LONG_S = 1200.0  # a busy machine; what is waited for takes seconds
_DISK_BYTES = 64_000_000
_DOWN_S = 20.0  # a line's, once
_SLOW = 1_300_000.0  # an update takes long enough to be cut off in its middle

Strike = Callable[[LiveFederation, Line], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong in a study of three sites and three rounds.

    Args:
        name: what the command line calls it.
        what: the same for the table.
        moment: when it happens.
        strike: does it, and what an administrator does about it, if anything.
        missing: the rounds whose total is without :data:`STRUCK`.
        may_miss: further ones that may be, as how fast it comes back depends on the machine.
        once: whether no site may train a round twice: only what is sealed already is struck.
        deadline_s: the study's.
        late: whether STRUCK is started by ``strike``.
        inside: a program inside which STRUCK's command runs.
        bits_per_s: how fast STRUCK's line is.
    """

    name: str
    what: str
    moment: str
    strike: Strike
    missing: tuple[int, ...] = ()
    may_miss: tuple[int, ...] = ()
    once: bool = False
    deadline_s: float = 600.0
    late: bool = False
    inside: tuple[str, ...] = ()
    bits_per_s: float = math.inf


def _training(live: LiveFederation) -> None:
    live.wait_for(lambda: live.is_in(STRUCK, "train", ROUND), seconds=_LONG_S)


def _kill(where: str, program: str, number: int = signal.SIGKILL) -> Strike:
    def strike(live: LiveFederation, _: Line) -> None:
        _training(live)
        live.strike(where, program, number)

    return strike


def _nothing(_live: LiveFederation, _line: Line) -> None:
    pass


def _kill_gateway(live: LiveFederation, line: Line) -> None:
    _half_sent(live, line)
    live.strike(COORDINATOR, "gateway")


def _stop_beyond_the_deadline(program: str) -> Strike:
    def strike(live: LiveFederation, _: Line) -> None:
        _training(live)
        process = live.strike(STRUCK, program, signal.SIGSTOP)
        live.wait_for(lambda: live.has_closed(ROUND), seconds=_LONG_S)
        with suppress(psutil.NoSuchProcess):
            process.resume()

    return strike


def _stop_until_given_up(live: LiveFederation, _: Line) -> None:
    _training(live)
    process = live.strike(COORDINATOR, "serverapp", signal.SIGSTOP)
    live.wait_for(lambda: _runs(live) == 2, seconds=_LONG_S)
    with suppress(psutil.NoSuchProcess):  # or else it could write to the journal of the second
        assert process.status() == psutil.STATUS_ZOMBIE


def _stop_until_killed(program: str) -> Strike:
    def strike(live: LiveFederation, _: Line) -> None:
        _training(live)
        process = live.strike(COORDINATOR, program, signal.SIGSTOP)
        live.wait_for(lambda: not process.is_running(), seconds=_LONG_S)

    return strike


def _runs(live: LiveFederation) -> int:
    return sum(isinstance(event, StudyStarted) for event in live.events())


def _power_cut(where: str) -> Strike:
    def strike(live: LiveFederation, _: Line) -> None:
        _training(live)
        live.kill(where)
        live.start(where)

    return strike


def _leave(live: LiveFederation, _: Line) -> None:
    _training(live)
    live.stop(STRUCK)


def _join_late(live: LiveFederation, _: Line) -> None:
    live.wait_for(
        lambda: any(isinstance(event, RoundStarted) for event in live.events()), seconds=_LONG_S
    )
    live.start(STRUCK)


def _fill_disk(live: LiveFederation, _: Line) -> None:
    _training(live)
    filler = live.work(STRUCK) / "filler"
    _fill(filler)

    def has_said() -> bool:
        failed = [event for event in live.events() if isinstance(event, SiteFailed)]
        return bool(failed) or live.has_closed(ROUND)

    live.wait_for(has_said, seconds=_LONG_S)
    filler.unlink()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1_000_000, 1_000, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def _cut(live: LiveFederation, line: Line) -> None:
    _half_sent(live, line)
    line.cut()
    live.hold(_DOWN_S)
    line.mend()


def _stall(live: LiveFederation, line: Line) -> None:
    _half_sent(live, line)
    line.stall()
    live.hold(2.5 * _DOWN_S)  # longer than the gateway waits for the next piece
    line.mend()


def _half_sent(live: LiveFederation, line: Line) -> None:
    """Wait until half of an update is on its way in the round."""
    live.wait_for(lambda: live.has_sealed(STRUCK, ROUND), seconds=_LONG_S)
    before = line.bytes_up
    live.wait_for(lambda: line.bytes_up > before + 400_000, seconds=_LONG_S)


# a file system of its own for one folder, in a name space of its own: nothing outside sees it
_SMALL_DISK = (
    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"',
    *("sh", str(_DISK_BYTES)),
)

_TRAINS = f"a site trains in round {ROUND}"
_SENDS = f"half of a site's update of round {ROUND} is sent"

FAULTS = (
    Fault("none", "nothing", "", _nothing, once=True),
    Fault("clientapp", "`kill -9` of a site's ClientApp", _TRAINS, _kill(STRUCK, "clientapp")),
    Fault(
        "terminated",
        "`kill` of a site's ClientApp",
        _TRAINS,
        _kill(STRUCK, "clientapp", signal.SIGTERM),
    ),
    Fault("supernode", "`kill -9` of a site's SuperNode", _TRAINS, _kill(STRUCK, "supernode")),
    Fault("superlink", "`kill -9` of SuperLink", _TRAINS, _kill(COORDINATOR, "superlink")),
    Fault("serverapp", "`kill -9` of the ServerApp", _TRAINS, _kill(COORDINATOR, "serverapp")),
    Fault(
        "gateway",
        "`kill -9` of the gateway",
        _SENDS,
        _kill_gateway,
        once=True,
        bits_per_s=_SLOW,
    ),
    Fault(
        "stopped-superlink",
        "`kill -STOP` of SuperLink until the coordinator kills it, after a minute",
        _TRAINS,
        _stop_until_killed("superlink"),
    ),
    Fault(
        "stopped-gateway",
        "`kill -STOP` of the gateway until the coordinator kills it, after a minute",
        _TRAINS,
        _stop_until_killed("gateway"),
    ),
    Fault("site", "a site's machine loses power and starts again", _TRAINS, _power_cut(STRUCK)),
    Fault(
        "coordinator",
        "the coordinator's machine loses power and starts again",
        _TRAINS,
        _power_cut(COORDINATOR),
    ),
    Fault(
        "stopped-clientapp",
        "`kill -STOP` of a site's ClientApp until the round's deadline is over",
        _TRAINS,
        _stop_beyond_the_deadline("clientapp"),
        missing=(ROUND,),
        may_miss=(ROUND + 1,),  # it first ends what it was stopped in, or is given up
        deadline_s=60.0,
    ),
    Fault(
        "stopped-supernode",
        "`kill -STOP` of a site's SuperNode until the round's deadline is over",
        _TRAINS,
        _stop_beyond_the_deadline("supernode"),
        missing=(ROUND,),
        may_miss=(ROUND + 1,),
        deadline_s=60.0,
    ),
    Fault(
        "stopped-serverapp",
        "`kill -STOP` of the ServerApp until Flower gives it up",
        _TRAINS,
        _stop_until_given_up,
    ),
    Fault(
        "disk",
        "a site's disk is full; room is made when the coordinator has said so",
        _TRAINS,
        _fill_disk,
        missing=(ROUND,),
        inside=_SMALL_DISK,
    ),
    Fault(
        "cut",
        f"a site's line is cut for {_DOWN_S:g} s",
        _SENDS,
        _cut,
        once=True,
        bits_per_s=_SLOW,
    ),
    Fault(
        "stall",
        f"a site's line is dead for {2.5 * _DOWN_S:g} s",
        _SENDS,
        _stall,
        once=True,
        bits_per_s=_SLOW,
    ),
    Fault(
        "late",
        "a site joins late",
        "round 1 has begun",
        _join_late,
        missing=(1,),
        may_miss=(2,),
        late=True,
    ),
    Fault("leaves", "a site leaves for good", _TRAINS, _leave, missing=(2, 3)),
)
