"""The process in which a site's SuperNode runs: it goes on asking, and says how much has left.

Flower's own gives a line up for good as soon as an error's text speaks of TLS, which is also what
it says of a peer that hangs up in a handshake: a gateway that is just being started again, or a
forwarder of ports before it. The answer that it was sending is then lost, or its loop ends while
its process stays and does nothing more. This one asks again, and where its loop does end, so does
the process, which the site's supervisor starts again. It ends with an exit code of its own where
another SuperNode with the site's key is connected.

python -m sites.node_process WORK_FOLDER FLOWERS_ARGUMENTS…
"""

from __future__ import annotations

import os
import sys
from functools import partial
from logging import ERROR, WARNING
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.logger import log
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from ppfl.errors import ElsewhereError
from sites.upload import Upload

_GAVE_UP = 1


def main() -> None:
    """Do what ``flower-supernode`` does."""
    telling = partial(_Telling, Upload(Path(sys.argv.pop(1))))
    with (
        patch.object(fleet_http_connection, "make_simple_http_retry_invoker", _patient_invoker),
        patch.object(fleet_http_connection, "NodeAuthHttpInterceptor", telling),
    ):
        flower_supernode()
    os._exit(_GAVE_UP)  # the thread that serves the ClientApp would keep the process


def _patient_invoker() -> RetryInvoker:
    """In place of one that gives up where TLS fails: a certificate, too, can be renewed."""
    invoker = make_simple_http_retry_invoker()
    gives_up = invoker.should_giveup

    def gives_up_at_last(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            log(WARNING, "%s", error)
            return False
        return gives_up is None or gives_up(error)

    invoker.should_giveup = gives_up_at_last
    return invoker


class _Telling(NodeAuthHttpInterceptor):
    """In place of one that only signs requests; it sees them pass."""

    def __init__(self, upload: Upload, *keys: Any) -> None:
        super().__init__(*keys)
        self._upload = upload

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        match context.rpc_method.rpartition("/")[2]:
            case "ActivateNode":
                return _unless_elsewhere(super().intercept(context, call_next))
            case "PushMessages":  # names the objects of which an answer consists
                self._upload.begin()
            case "PullMessages":
                self._upload.end()
            case "PushObject":
                with self._upload.counting(context.request):
                    return super().intercept(context, call_next)
        return super().intercept(context, call_next)


def _unless_elsewhere(answer: httpx.Response) -> httpx.Response:
    """SuperLink's answer to a SuperNode that comes; the process ends if it has that one already.

    Its key is known there, or it would have been refused before.
    """
    if answer.is_error:
        told = FlowerError.from_json(answer.text)
        if told is not None and told.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            log(ERROR, "SuperLink has this node already: %s", answer.text)
            os._exit(ElsewhereError.exit_code)
    return answer


if __name__ == "__main__":
    main()
