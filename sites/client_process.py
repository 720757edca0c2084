"""The process that Flower starts for each message at a site: it runs the installed ClientApp only.

A run of Flower's brings its app along, as a FAB, and Flower would unpack it and put it before the
installed packages: whoever starts a run, so the coordinator, could have any code executed at a
hospital. Here the FAB is neither unpacked nor loaded.
"""

from __future__ import annotations

import os
import signal
from typing import Any
from unittest.mock import patch

from flwr.clientapp import ClientApp
from flwr.supercore.exit.signal_handler import SIGNAL_TO_EXIT_CODE, register_signal_handlers
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp


def main() -> None:
    """Do what ``flwr-clientapp`` does, with this site's own app."""
    with (
        patch.object(run_clientapp, "install_from_fab", _ignore),
        patch.object(run_clientapp, "get_load_client_app_fn", lambda **_: _installed),
        patch.object(run_clientapp, "register_signal_handlers", _end_on_signals),
    ):
        flwr_clientapp()


def _ignore(_content: bytes, **_: Any) -> None:
    """In place of unpacking what the coordinator sent."""


def _installed(*_: str) -> ClientApp:
    """In place of loading it.

    The app brings torch. Flower gives a process 30 s to report, and starts another in its place:
    on a slow machine more and more of them, if torch were loaded before.
    """
    from sites.client_app import app

    return app


def _end_on_signals(**options: Any) -> None:
    """In place of ending in order when a signal comes.

    A process that says that it ends, and answers nothing, has its SuperNode wait for the answer
    for ever. One that ends without a word is missed within a minute, and the site is asked again.
    """
    register_signal_handlers(**options)
    for number in SIGNAL_TO_EXIT_CODE:
        signal.signal(number, lambda number, _frame: os._exit(128 + number))


if __name__ == "__main__":
    main()
