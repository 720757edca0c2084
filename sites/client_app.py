"""The Flower ClientApp of a hospital: messages in, messages out, and no arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ppfl.errors import RunError, SettingsError, kind_of
from ppfl.federation import Journal
from ppfl.federation.journal import INTERNAL, Refused
from ppfl.settings import SiteFile, Study
from sites.deadline import ends_after
from sites.folders import run_folder
from sites.hospital import Hospital
from sites.messages import read_request, write_answer, write_refusal
from sites.requests import Answer, Refusal, Request

app = ClientApp()
_LATE_S = 30.0
_log = logging.getLogger("ppfl.site")


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
    """The site's answer, or a code and a fixed sentence; never the text of an exception.

    Whatever goes wrong becomes an ordinary reply, because Flower would send ``str(exception)``,
    which can hold a patient's path.
    """
    site, round_number = None, 0
    try:
        site = SiteFile.read(_site_file(context))
        with _ending_late(site, context):
            request = read_request(message.content)
            round_number = request.round_number
            content = write_answer(site.name, act(Hospital(site), request))
    except Exception as error:
        kind = kind_of(error)
        if kind is not None:
            content = _refuse(site, round_number, kind.code, kind.public_sentence, str(error))
        else:
            _log.exception("the site failed")
            sentence = "The site failed for a reason that only its own log tells."
            content = _refuse(site, round_number, INTERNAL, sentence, repr(error))
    return Message(content, reply_to=message)


def _ending_late(site: SiteFile, context: Context) -> AbstractContextManager[None]:
    """What ends this process if it is much later than the study allows, where it has its own."""
    if "site-file" not in context.node_config:
        return nullcontext()  # a simulation: other sites share this process
    deadline_s = Study.read(site.study).federation.deadline_s
    return ends_after(deadline_s + _LATE_S)


def _site_file(context: Context) -> Path:
    """The site file: what this SuperNode was started with, or this site's place in a simulation."""
    if path := context.node_config.get("site-file"):
        return Path(str(path))
    if "partition-id" not in context.node_config:
        raise SettingsError(
            "this SuperNode was started without a site file",
            hint="start it with --node-config 'site-file=\"…/site.toml\"'",
        )
    places = sorted((run_folder(context.run_id) / "sites").iterdir())
    return places[int(str(context.node_config["partition-id"]))] / "site.toml"


def _refuse(
    site: SiteFile | None, round_number: int, code: str, sentence: str, reason: str
) -> RecordDict:
    _log.error("refused (%s): %s", code, reason)
    if site is not None:
        journal = Journal(site.work / "journal.jsonl")
        with suppress(RunError):  # a full disk must not keep the refusal from being sent
            journal.write(Refused(round=round_number, code=code, reason=reason))
    return write_refusal(Refusal(site.name if site else "", code, sentence))
