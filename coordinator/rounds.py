"""The coordinator's round loop: it asks, adds what it cannot read, and keeps the record."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from coordinator.released import Released
from ppfl.codec import Suite
from ppfl.crypto import read_public_key
from ppfl.errors import MalformedMessageError, PpflError, QuorumError
from ppfl.federation import Aggregation, Checkpoint, Journal, read_journal
from ppfl.federation.journal import (
    Alarm,
    MeanXRaysReleased,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.federation.xray_sums import XRaySums
from ppfl.learning.files import load_model
from ppfl.learning.models import shared_names
from ppfl.settings import Study
from sites.closing import closing_plan
from sites.messages import read_answer, write_request
from sites.requests import Answer, Refusal, Request
from sites.vectors import create_suite, enrolment_plan, shapes_of, update_plan

_POLL_S = 0.2
_VERSIONS = ("ppfl", "flwr", "phe", "gmpy2", "numpy", "torch", "torchvision")


@dataclass(frozen=True, slots=True)
class _Answered:
    """One node's answer that is not a refusal."""

    node: int
    site: str
    answer: Answer


class Coordinator:
    """One run of one study.

    Args:
        grid: Flower's way to the sites.
        folder: the run's folder: study.toml, public.key and start.safetensors lie there, the
            journal and the checkpoint are written there.
        connect_s: seconds to wait for the study's sites to connect.

    Raises:
        SettingsError: the study cannot be read.
        KeyMaterialError: the public key cannot be used.
        ModelError: the starting parameters cannot be read, or are not those of a network with the
            study's local layers.
    """

    def __init__(self, grid: Grid, folder: Path, *, connect_s: float = 120.0) -> None:
        self.study = Study.read(folder / "study.toml")
        self.journal = Journal(folder / "journal.jsonl")
        self._grid, self._connect_s = grid, connect_s
        self._checkpoint_file = folder / "checkpoint.bin"
        self._xrays_file = folder / "xrays.bin"
        encrypted = self.study.encryption.custody != "unsafe_plaintext"
        self._public = read_public_key(folder / "public.key") if encrypted else None
        self._suite = create_suite(self.study, self._public)
        self._start, _ = load_model(folder / "start.safetensors")
        shared = shared_names(self._start, self.study.model)
        self._updates = update_plan(
            self.study, shapes_of({name: self._start[name] for name in shared})
        )
        self._released = Released(self.study, self.journal)
        self._sites: dict[int, str] = {}  # by Flower's node id
        self._enrolment = self._aggregation(self._suite, enrolment_plan(self.study).values)
        self._run, self._done, self._total = secrets.token_hex(8), 0, b""

    def run(self, *, resume: bool = False) -> None:
        """Run the study from its first round, or from the last complete one, to the model.

        Raises:
            QuorumError: too few sites connected, enrolled or answered; the checkpoint stays.
            RunError: there is no checkpoint to resume from, or the disk is full.
        """
        started = time.monotonic()
        try:
            if resume and self._checkpoint_file.exists():
                self._resume()
            self._announce()
            self._wait_for_nodes()
            for number in range(self._done + 1, self.study.training.rounds + 1):
                self._enroll()
                if number == 1 and self.study.mean_xray_size:
                    self._release_mean_xrays()
                self._round(number)
            self._enroll()
            self._close(started)
        except PpflError as error:
            failed = StudyFailed(round=self._done, code=error.code, sentence=str(error))
            self.journal.write(failed)
            raise

    def _resume(self) -> None:
        kept = Checkpoint.read(self._checkpoint_file, study=self.study.fingerprint())
        self._run, self._done, self._total = kept.run, kept.round_number, kept.total

    def _announce(self) -> None:
        study = self.study
        self.journal.write(
            StudyStarted(
                run=self._run,
                study=study.name,
                study_fingerprint=study.fingerprint(),
                classes=study.classes,
                custody=study.encryption.custody,
                suite=self._suite.name,
                protection=self._suite.protection,
                key_fingerprint=self._suite.fingerprint,
                key_bits=self._public.bits if self._public else 0,
                sites=study.federation.sites,
                minimum_sites=study.federation.minimum_sites,
                deadline_s=study.federation.deadline_s,
                rounds=study.training.rounds,
                values=self._updates.values,
                update_bytes=self._suite.expected(self._updates.values).wire_bytes,
                versions={name: version(name) for name in _VERSIONS},
                resumed_after=self._done,
            )
        )

    def _wait_for_nodes(self) -> None:
        wanted, least = len(self.study.federation.sites), self.study.federation.minimum_sites
        until = time.monotonic() + self._connect_s
        while (count := len(list(self._grid.get_node_ids()))) < wanted:
            if time.monotonic() > until:
                if count >= least:
                    return
                raise QuorumError(
                    f"{count} of {wanted} sites connected within {self._connect_s:g} s, "
                    f"{least} are needed"
                )
            time.sleep(_POLL_S)

    def _enroll(self) -> None:
        """Enroll every node that is not enrolled yet: all of them first, a late one later."""
        new = [node for node in self._grid.get_node_ids() if node not in self._sites]
        if new:
            content = self._request(0, start=self._start)
            bytes_down = sum(array.nbytes for array in self._start.values())
            for answered in self._ask("query.enroll", new, content, 0):
                if self._accept(self._enrolment, answered, 0):
                    self._sites[answered.node] = answered.site
                    bytes_up = len(answered.answer.sealed)
                    self.journal.write(
                        SiteEnrolled(site=answered.site, bytes_up=bytes_up, bytes_down=bytes_down)
                    )
        self._enrolled = self._enrolment.total().to_bytes()

    def _release_mean_xrays(self) -> None:
        """Have the sites add up their X-rays and open the federation's sum, once in a run.

        The sum is on disk before it is opened, because the sites open no other one after it.
        """
        if any(isinstance(e, MeanXRaysReleased) for e in read_journal(self.journal.path)):
            return
        if self._xrays_file.exists():
            total = Checkpoint.read(self._xrays_file, study=self.study.fingerprint()).total
        else:
            sums = XRaySums(self.study, self._suite)
            aggregation = self._aggregation(sums.suite, sums.values)
            content = self._request(0, enrolled=self._enrolled)
            for answered in self._ask("query.add_xrays", list(self._sites), content, 0):
                self._accept(aggregation, answered, 0)
            total = aggregation.total().to_bytes()
            checkpoint = Checkpoint(self.study.fingerprint(), self._run, 0, total)
            checkpoint.write(self._xrays_file)
        content = self._request(0, total=total)
        for answered in self._ask("query.release_xrays", list(self._sites), content, 0):
            try:
                self._released.note_mean_xrays(answered.site, answered.answer)
            except MalformedMessageError as error:
                self._failed(0, answered.node, Refusal("", error.code, str(error)))
        self._released.publish_mean_xrays(bytes_up=len(total))

    def _round(self, number: int) -> None:
        started = time.monotonic()
        sites = tuple(self._sites.values())
        self.journal.write(RoundStarted(round=number, sites=sites))
        content = self._request(number, enrolled=self._enrolled, total=self._total)
        bytes_down = len(self._enrolled) + len(self._total)
        aggregation = self._aggregation(self._suite, self._updates.values)
        for answered in self._ask(MessageType.TRAIN, list(self._sites), content, number):
            began = time.monotonic()
            if self._accept(aggregation, answered, number):
                add_s = round(time.monotonic() - began, 3)
                self._record(answered, number, bytes_down=bytes_down, add_s=add_s)
        total = aggregation.total().to_bytes()
        checkpoint = Checkpoint(self.study.fingerprint(), self._run, number, total)
        checkpoint.write(self._checkpoint_file)
        self._done, self._total = number, total
        self.journal.write(
            RoundClosed(
                round=number,
                sites=aggregation.answered,
                seconds=round(time.monotonic() - started, 3),
                total_sha256=hashlib.sha256(total).hexdigest(),
            )
        )
        self._released.publish()

    def _close(self, started: float) -> None:
        number = self._done + 1
        content = self._request(number, enrolled=self._enrolled, total=self._total)
        aggregation = self._aggregation(self._suite, closing_plan(self.study).values)
        models: list[str] = []
        for answered in self._ask("query.close", list(self._sites), content, number):
            if self._accept(aggregation, answered, number):
                self._released.note(answered.site, answered.answer)
                models.append(answered.answer.model_sha256)
        content = self._request(number, total=aggregation.total().to_bytes())
        for answered in self._ask("query.release", list(self._sites), content, number):
            self._released.note(answered.site, answered.answer)
        self._released.publish()
        self.journal.write(
            StudyClosed(
                rounds=self._done,
                sites=aggregation.answered,
                model_sha256=Counter(models).most_common(1)[0][0],
                seconds=round(time.monotonic() - started, 3),
            )
        )

    def _record(self, answered: _Answered, number: int, *, bytes_down: int, add_s: float) -> None:
        answer, clipped = answered.answer, answered.answer.clipped
        self.journal.write(
            SiteAnswered(
                round=number,
                site=answered.site,
                bytes_up=len(answer.sealed),
                bytes_down=bytes_down,
                seconds=dict(answer.seconds) | {"add": add_s},
                clipped=clipped,
            )
        )
        self._released.note(answered.site, answered.answer)
        if clipped:
            sentence = f"{answered.site} clipped {clipped} parameters"
            self.journal.write(Alarm(round=number, code="clipping", sentence=sentence))

    def _aggregation(self, suite: Suite, values: int) -> Aggregation:
        federation = self.study.federation
        return Aggregation(
            suite,
            values=values,
            sites=federation.sites,
            minimum_sites=federation.minimum_sites,
        )

    def _accept(self, aggregation: Aggregation, answered: _Answered, number: int) -> bool:
        """Whether an answer went into the total; if not, the journal says why."""
        try:
            aggregation.accept(answered.site, answered.answer.sealed)
        except PpflError as error:
            failed = SiteFailed(
                round=number, site=answered.site, code=error.code, sentence=str(error)
            )
            self.journal.write(failed)
            return False
        return True

    def _request(self, round_number: int, **fields: Any) -> RecordDict:
        study = self.study.fingerprint()
        return write_request(Request(study, self._run, round_number, **fields))

    def _ask(
        self, kind: str, nodes: list[int], content: RecordDict, number: int
    ) -> Iterator[_Answered]:
        """Answers as they arrive, until all are there or the deadline has passed."""
        deadline_s = self.study.federation.deadline_s
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=deadline_s) for node in nodes
        ]
        waiting = dict(zip(self._grid.push_messages(messages), nodes, strict=True))
        until = time.monotonic() + deadline_s
        while waiting and time.monotonic() < until:
            arrived = list(self._grid.pull_messages(list(waiting)))
            for reply in arrived:
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                told = self._read(node, reply)
                if isinstance(told, Refusal):
                    self._failed(number, node, told)
                else:
                    yield told
            if not arrived:
                time.sleep(_POLL_S)
        for node in waiting.values():
            sentence = f"No answer within {deadline_s:g} s."
            self._failed(number, node, Refusal("", "deadline", sentence))

    def _read(self, node: int, reply: Message) -> _Answered | Refusal:
        if reply.has_error():
            sentence = "Flower lost the site or its process."
            return Refusal("", f"flower-{reply.error.code}", sentence)
        try:
            told = read_answer(reply.content)
        except MalformedMessageError as error:
            return Refusal("", error.code, str(error))
        if isinstance(told, Refusal):
            return told
        site, answer = told
        if self._sites.get(node, site) != site:
            return Refusal("", "wrong-site", "The answer bears the name of another site.")
        return _Answered(node, site, answer)

    def _failed(self, number: int, node: int, refusal: Refusal) -> None:
        name = self._sites.get(node) or refusal.site or f"node {node}"
        self.journal.write(
            SiteFailed(round=number, site=name, code=refusal.code, sentence=refusal.sentence)
        )
