"""A site's processes: the SuperNode that talks to the coordinator, and what runs the ClientApp."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ppfl.errors import ElsewhereError, RunError
from ppfl.files import replace_text
from ppfl.processes import Program, Supervisor
from sites.flower import flower_environment, flower_program, write_secret

_ELSEWHERE_S = 180.0  # three times as long as Flower waits for a node that was cut off
_log = logging.getLogger("ppfl.site")


def serve_site(
    *,
    site_file: Path,
    superlink: str,
    authority: Path,
    node_key: Path,
    node_port: int,
    folder: Path,
    each: Callable[[], None],
) -> None:
    """Take part in the coordinator's study until SIGTERM or SIGINT.

    Flower takes a site back that was cut off only after a minute; until then its SuperNode ends
    at once, and is started again. A SuperNode of this site that is still refused for that reason
    after three minutes is a second one: then it is the first that stays.

    Args:
        site_file: absolute path of the site's own settings.
        superlink: HOST:PORT of the coordinator's gateway.
        authority: certificate of the federation's CA.
        node_key: private key of this site's SuperNode, in OpenSSH's format.
        node_port: where the SuperNode listens for the ClientApp, on the loopback interface.
        folder: for logs, the status and Flower's own files; it lies in the site's work folder.
        each: called ten times a second meanwhile.

    Raises:
        PortInUseError: another program listens on the SuperNode's port.
        RunError: the site runs already, or its path cannot be handed to Flower.
        ElsewhereError: another machine takes part with this site's key.
    """
    if '"' in str(site_file) or "\\" in str(site_file):
        raise RunError(f"{site_file}: Flower takes no path with quotation marks or backslashes")
    here, secret = f"127.0.0.1:{node_port}", folder / "superexec.secret"
    programs = [
        Program(
            "supernode",
            [
                *(sys.executable, "-P", "-m", "sites.node_process", str(folder.parent)),
                *("--superlink", superlink, "--root-certificates", str(authority)),
                *("--auth-supernode-private-key", str(node_key)),
                *("--host", "127.0.0.1", "--port", str(node_port)),
                *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
                *("--node-config", f'site-file="{site_file}"'),
            ],
            flower_environment(folder / "supernode"),
            on_end=_Elsewhere(),
        ),
        Program(
            "superexec",
            [
                flower_program("flower-superexec"),
                *("--insecure", "--runtime-api-address", here),
                *("--superexec-auth-secret-file", str(secret)),
            ],
            flower_environment(folder / "superexec", before=_programs(folder / "bin")),
            # what a ClientApp does for a SuperNode that is gone, nobody fetches any more
            needs="supernode",
        ),
    ]
    supervisor = Supervisor(programs, folder, ports=(("127.0.0.1", node_port),))
    write_secret(secret)
    supervisor.run(each)


class _Elsewhere:
    """Says why SuperLink does not take the SuperNode, and at last gives up."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, code: int) -> None:
        """Take note of how the SuperNode has ended.

        Raises:
            ElsewhereError: it is refused for longer than what is left of an earlier one explains.
        """
        if code != ElsewhereError.exit_code:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
            _log.warning(
                "another SuperNode of this site is connected, or was until a minute ago; "
                "the site goes on asking for %.0f s",
                _ELSEWHERE_S,
            )
        elif time.monotonic() > self._since + _ELSEWHERE_S:
            raise ElsewhereError(
                "another SuperNode of this site is connected to the coordinator, and stays",
                hint="look for a second machine that runs from a copy of this site's folder; "
                "nobody else can have its key, or it was stolen",
            )


def _programs(folder: Path) -> Path:
    """A folder whose ``flwr-clientapp`` is this site's own: see sites/client_process.py."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    program = folder / "flwr-clientapp"
    # -P: what lies in the folder that the site was started from is no code of its own
    command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m sites.client_process "$@"\n'
    replace_text(program, command)
    program.chmod(0o700)
    return folder
