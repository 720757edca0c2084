"""The Flower ClientApp of a hospital: messages in, messages out, and no arithmetic."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ppfl.errors import MalformedMessageError, PpflError, SettingsError
from ppfl.federation.journal import Journal, Refused
from ppfl.settings import SiteFile
from sites.folders import run_folder
from sites.hospital import Hospital
from sites.messages import SEALED, read_sealed, write_sealed
from sites.requests import Answer, Request

app = ClientApp()
_log = logging.getLogger("ppfl.site")


@app.query("enroll")
def _enroll(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.enroll)


@app.train()
def _train(message: Message, context: Context) -> Message:
    return _answer(message, context, Hospital.train)


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
        request = _read_request(message.content)
        round_number = request.round_number
        content = _write_answer(site.name, act(Hospital(site), request))
    except PpflError as error:
        content = _refuse(site, round_number, error.code, error.public_sentence, str(error))
    except Exception as error:
        _log.exception("the site failed")
        sentence = "The site failed for a reason that only its own log tells."
        content = _refuse(site, round_number, "internal", sentence, repr(error))
    return Message(content, reply_to=message)


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


def _read_request(content: RecordDict) -> Request:
    try:
        config = content.config_records["request"]
        start = {
            name: np.asarray(array.numpy(), np.float32)
            for name, array in content.array_records.get("start", ArrayRecord()).items()
        }
        return Request(
            study=str(config["study"]),
            run=str(config["run"]),
            round_number=int(str(config["round"])),
            enrolled=read_sealed(content, "enrolled"),
            total=read_sealed(content, "total"),
            start=start,
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedMessageError("the coordinator's request is incomplete") from None


def _write_answer(site: str, answer: Answer) -> RecordDict:
    content = RecordDict()
    content["answer"] = ConfigRecord(
        {
            "site": site,
            "released": json.dumps(dict(answer.released), sort_keys=True),
            "released-round": answer.released_round,
            "model-sha256": answer.model_sha256,
            "seconds": json.dumps(dict(answer.seconds)),
            "clipped": answer.clipped,
        }
    )
    if answer.sealed:
        write_sealed(content, SEALED, answer.sealed)
    return content


def _refuse(
    site: SiteFile | None, round_number: int, code: str, sentence: str, reason: str
) -> RecordDict:
    _log.error("refused (%s): %s", code, reason)
    if site is not None:
        journal = Journal(site.work / "journal.jsonl")
        journal.write(Refused(round=round_number, code=code, reason=reason))
    fields: dict[str, Any] = {"site": site.name if site else "", "code": code, "sentence": sentence}
    content = RecordDict()
    content["refusal"] = ConfigRecord(fields)
    return content
