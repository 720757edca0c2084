"""A site's answer to a message, or its refusal; the site's journal has the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from ppfl.errors import PpflError, RunError, SettingsError, kind_of
from ppfl.federation import Journal
from ppfl.federation.journal import INTERNAL, Refused
from ppfl.settings import SiteFile, Study
from sites.deadline import ends_after
from sites.folders import run_folder
from sites.messages import read_request, write_answer, write_refusal
from sites.requests import Answer, Refusal, Request

_LATE_S = 30.0
_log = logging.getLogger("ppfl.site")


def answer(
    message: Message, context: Context, act: Callable[[SiteFile, Request], Answer]
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
            content = write_answer(site.name, act(site, request))
    except Exception as error:
        content = _refuse(site, round_number, error)
    return Message(content, reply_to=message)


def refuse(message: Message, context: Context, error: PpflError) -> Message:
    """The site's refusal of a message that it does not even read."""
    site = None
    with suppress(PpflError):  # a refusal all the same, but without a name
        site = SiteFile.read(_site_file(context))
    return Message(_refuse(site, 0, error), reply_to=message)


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


def _refuse(site: SiteFile | None, round_number: int, error: Exception) -> RecordDict:
    if kind := kind_of(error):
        code, sentence, reason = kind.code, kind.public_sentence, str(error)
    else:
        _log.error("the site failed", exc_info=error)
        sentence = "The site failed for a reason that only its own log tells."
        code, reason = INTERNAL, repr(error)
    _log.error("refused (%s): %s", code, reason)
    if site is not None:
        journal = Journal(site.work / "journal.jsonl")
        with suppress(RunError):  # a full disk must not keep the refusal from being sent
            journal.write(Refused(round=round_number, code=code, reason=reason))
    return write_refusal(Refusal(site.name if site else "", code, sentence))
