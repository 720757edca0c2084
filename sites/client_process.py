"""The process that Flower starts for each message at a site: it runs the installed ClientApp only.

A run of Flower's brings its app along, as a FAB, and Flower would unpack it and put it before the
installed packages: whoever starts a run, so the coordinator, could have any code executed at a
hospital. Here the FAB is neither unpacked nor loaded, and only compared: a site answers to the one
that holds no code, and refuses every message of a run that brings another.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from flwr.app import Context, Message
from flwr.supercore.exit.signal_handler import SIGNAL_TO_EXIT_CODE, register_signal_handlers
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

_App = Callable[[Message, Context], Message]


def main() -> None:
    """Do what ``flwr-clientapp`` does, with this site's own app."""
    brought = _Brought()
    with (
        patch.object(run_clientapp, "install_from_fab", brought.take),
        patch.object(run_clientapp, "get_load_client_app_fn", lambda **_: brought.app),
        patch.object(run_clientapp, "register_signal_handlers", _end_on_signals),
    ):
        flwr_clientapp()


class _Brought:
    """The FAB that a run brought along."""

    def __init__(self) -> None:
        self._content = b""

    def take(self, content: bytes, **_: Any) -> None:
        """In place of unpacking it."""
        self._content = content

    def app(self, *_: str) -> _App:
        """In place of loading it: the installed app, or what refuses, if it is not the one.

        The app brings torch. Flower gives a process 30 s to report, and starts another in its
        place: on a slow machine more and more of them, if anything but Flower were loaded before.
        """
        from ppfl.errors import ApprovalError
        from sites.answering import refuse
        from sites.bundle import app_bundle

        expected = app_bundle()
        if self._content != expected:
            found, needed = (hashlib.sha256(c).hexdigest() for c in (self._content, expected))
            error = ApprovalError(
                f"the run brings bundle {found[:16]}…, this site answers to {needed[:16]}… only"
            )
            return partial(refuse, error=error)
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
