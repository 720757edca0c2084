"""A site's processes: the SuperNode that talks to the coordinator, and what runs the ClientApp."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from ppfl.crypto.textfile import replace_text
from ppfl.errors import RunError
from ppfl.processes import Program, Supervisor
from sites.flower import flower_environment, flower_program, write_secret


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
    at once, and is started again.

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


def _programs(folder: Path) -> Path:
    """A folder whose ``flwr-clientapp`` is this site's own: see sites/client_process.py."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    program = folder / "flwr-clientapp"
    # -P: what lies in the folder that the site was started from is no code of its own
    command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m sites.client_process "$@"\n'
    replace_text(program, command)
    program.chmod(0o700)
    return folder
