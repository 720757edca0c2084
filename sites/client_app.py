"""The Flower ClientApp of a hospital: messages in, messages out, and no arithmetic."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sites.answering import answer
from sites.hospital import Hospital
from sites.requests import Answer, Request

app = ClientApp()


@app.query("enroll")
def _enroll(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.enroll)


@app.query("add_xrays")
def _add_xrays(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.add_xrays)


@app.query("release_xrays")
def _release_xrays(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.release_xrays)


@app.train()
def _train(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.train)


@app.query("catch_up")
def _catch_up(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.catch_up)


@app.query("close")
def _close(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.close)


@app.query("release")
def _release(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.release)


def _answer(
    message: Message, context: Context, act: Callable[[Hospital, Request], Answer]
) -> Message:
    return answer(message, context, lambda site, request: act(Hospital(site), request))
