"""A federation on this machine, of the very processes that it has between hospitals.

`ppfl coordinator run` and `ppfl site run` are started as an administrator starts them, with TLS,
the gateway and full-size keys; what they start is found through them, to be struck.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from coordinator.folder import COORDINATOR_FILE
from ppfl.crypto import generate_key
from ppfl.errors import RunError
from ppfl.federation import Checkpoint, read_journal
from ppfl.federation.journal import AnyEvent, RoundClosed, StudyClosed
from ppfl.running import read_running
from ppfl.settings import CoordinatorFile, Study, read_settings
from ppfl.xray import write_phantoms
from sites.flower import flower_program
from sites.phase import read_phase
from tests.deployed import Deployed, connect, deploy, free_port

COORDINATOR = "coordinator"
_POLL_S = 0.02
_END_S = 40.0
_COMMANDS = {"serverapp": "flwr-serverapp", "clientapp": "sites.client_process"}


def prepare(root: Path, draft: Study, *, images: int = 8, key_bits: int = 2048) -> Deployed:
    """A federation that has gone through docs/deployment.md up to `Running`.

    Each site has so many phantoms of every class, of patients of its own.
    """
    deployed = deploy(root, generate_key(key_bits), draft)
    for number, site in enumerate(draft.federation.sites):
        data = root / "xrays" / site
        data.mkdir(parents=True)
        write_phantoms(
            data,
            counts=dict.fromkeys(draft.classes, images),
            size=draft.images.size,
            seed=draft.seed,
            patients_prefix=f"p{chr(ord('a') + number)}",
        )
        deployed.join(site, data=data)
    return deployed


class LiveFederation:
    """The processes of a federation in a folder of its own, ended when a block is left.

    Args:
        prepared: what :func:`prepare` made; it is copied, and keeps its X-rays.
        root: where to; it does not exist yet.
    """

    def __init__(self, prepared: Deployed, root: Path) -> None:
        shutil.copytree(prepared.root, root)
        self.deployed = Deployed(root)
        self.port = free_port()
        self.totals: dict[int, bytes] = {}
        """The sealed total of each round whose checkpoint was seen, by its number."""
        self._commands: dict[str, subprocess.Popen[bytes]] = {}
        self._seen = 0
        path = self.deployed.coordinator / COORDINATOR_FILE
        ports = {"port": self.port, "superlink_port": free_port(), "dashboard_port": free_port()}
        here = {"listen": "127.0.0.1"} | ports
        path.write_text(read_settings(path, CoordinatorFile).model_copy(update=here).to_toml())
        self.study = Study.read(self.deployed.coordinator / "study.toml")
        self.sites = self.study.federation.sites
        for site in self.sites:  # one core: training then gives the same bits everywhere
            folder = self.deployed.site(site)
            connect(folder, threads=1, port=self.port, node_port=free_port())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Commands

    def start(self, name: str, *, inside: Sequence[str] = ()) -> None:
        """Start the coordinator's command or a site's, perhaps inside another program."""
        role = COORDINATOR if name == COORDINATOR else "site"
        folder = self.deployed.coordinator if role == COORDINATOR else self.deployed.site(name)
        command = [*inside, flower_program("ppfl"), role, "run", str(folder)]
        with (self.deployed.root / f"{name}.out").open("ab") as output:
            self._commands[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_all(self, *, but: str = "") -> None:
        """Start the coordinator, and all sites but one."""
        for name in (COORDINATOR, *self.sites):
            if name != but:
                self.start(name)

    def stop(self, name: str) -> None:
        """End a command as Ctrl-C does."""
        command = self._commands.pop(name)
        command.send_signal(signal.SIGINT)
        command.wait(timeout=_END_S)

    def wait_end(self, name: str) -> int:
        """Wait until a command ends by itself, or because it was told to; its exit code."""
        return self._commands.pop(name).wait(timeout=_END_S)

    def kill(self, name: str) -> None:
        """End a command so that it can do nothing about it; its guard ends what it ran."""
        command = self._commands.pop(name)
        running = psutil.Process(command.pid).children(recursive=True)
        command.kill()
        command.wait()
        psutil.wait_procs(running, timeout=_END_S)

    def has_ended(self, name: str) -> bool:
        """Whether a command has ended by itself."""
        return name in self._commands and self._commands[name].poll() is not None

    def said(self, name: str) -> str:
        """What a command has printed."""
        return (self.deployed.root / f"{name}.out").read_text(errors="replace")

    def close(self) -> None:
        """End all commands, the sites' first."""
        left = dict(self._commands)
        for name in reversed(left):
            try:
                self.stop(name)
            except subprocess.TimeoutExpired:
                left[name].kill()
                left[name].wait()

    # What they run

    def find(self, where: str, program: str) -> psutil.Process | None:
        """A program at the coordinator or at a site, None where it does not run just now.

        `supernode`, `superlink`, `gateway` and `superexec` are the supervisor's own; `serverapp`
        and `clientapp` are what Flower starts for it; `command` is `ppfl` itself.
        """
        with suppress(RunError, psutil.Error, KeyError):
            if program == "command":
                return psutil.Process(self._commands[where].pid)
            if program not in _COMMANDS:
                return self._supervised(where, program)
            for process in self._supervised(where, "superexec").children(recursive=True):
                with suppress(psutil.Error):
                    if any(_COMMANDS[program] in word for word in process.cmdline()):
                        return process
        return None

    def strike(self, where: str, program: str, number: int = signal.SIGKILL) -> psutil.Process:
        """Signal a program that runs, or is about to."""
        found: list[psutil.Process] = []

        def strike() -> bool:
            process = self.find(where, program)
            with suppress(psutil.NoSuchProcess):
                if process is not None:
                    process.send_signal(number)
                    found.append(process)
            return bool(found)

        self.wait_for(strike, seconds=_END_S)
        return found[0]

    def starts(self, where: str) -> dict[str, int]:
        """How often each of a supervisor's programs was started."""
        programs = read_running(self._flower(where)).programs
        return {program["name"]: program["starts"] for program in programs}

    # How far they are

    def events(self) -> list[AnyEvent]:
        """The coordinator's journal."""
        return _events(self.deployed.coordinator / "run" / "journal.jsonl")

    def site_events(self, site: str) -> list[AnyEvent]:
        """A site's journal."""
        return _events(self.work(site) / "journal.jsonl")

    def work(self, site: str) -> Path:
        """A site's work folder, as the site's own processes see it."""
        folder = self.deployed.site(site) / "work"
        command = self._commands.get(site)
        if command is not None and not self.has_ended(site):
            return Path(f"/proc/{command.pid}/root{folder.resolve()}")
        return folder

    def is_in(self, site: str, phase: str, number: int) -> bool:
        """Whether a site is in a phase of a round."""
        state = read_phase(self.work(site))
        return (state.get("phase"), state.get("round")) == (phase, number)

    def has_sealed(self, site: str, number: int) -> bool:
        """Whether a site has sealed its answer in a round, which may be on its way."""
        return self.is_in(site, "done", number) or self.is_in(site, "upload", number)

    def has_closed(self, number: int) -> bool:
        """Whether a round is complete, or the study when ``number`` is 0."""
        for event in self.events():
            if isinstance(event, StudyClosed):
                return True
            if number and isinstance(event, RoundClosed) and event.round == number:
                return True
        return False

    def wait_for(
        self, condition: Callable[[], bool], *, seconds: float, every_s: float = _POLL_S
    ) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: it was not in time, or the coordinator's command ended before; the
                message holds what the commands said.
        """
        until = time.monotonic() + seconds
        while True:
            ended = self.has_ended(COORDINATOR)  # before the look at what it may have done last
            if condition():
                break
            self._keep_total()
            if ended or time.monotonic() > until:
                said = "\n".join(f"--- {name}\n{self.said(name)}" for name in self._commands)
                why = "the coordinator ended" if ended else f"waited {seconds:g} s"
                raise AssertionError(f"{why}; {self.deployed.root}\n{said}")
            time.sleep(every_s)
        self._keep_total()

    def hold(self, seconds: float, *, every_s: float = _POLL_S) -> None:
        """Let time pass, but not beyond the end of the coordinator's command."""
        with suppress(AssertionError):
            self.wait_for(lambda: False, seconds=seconds, every_s=every_s)

    def _keep_total(self) -> None:
        path = self.deployed.coordinator / "run" / "checkpoint.bin"
        with suppress(RunError, FileNotFoundError):
            changed = path.stat().st_mtime_ns
            if changed != self._seen:
                kept = Checkpoint.read(path, study=self.study.fingerprint())
                self.totals[kept.round_number] = kept.total
                self._seen = changed

    def _supervised(self, where: str, program: str) -> psutil.Process:
        programs = {p["name"]: p["pid"] for p in read_running(self._flower(where)).programs}
        if programs[program] is None:  # psutil would take this process
            raise psutil.NoSuchProcess(0)
        return psutil.Process(programs[program])

    def _flower(self, where: str) -> Path:
        return (self.deployed.coordinator if where == COORDINATOR else self.work(where)) / "flower"


def _events(path: Path) -> list[AnyEvent]:
    return read_journal(path) if path.exists() else []
