"""The coordinator's round loop: it asks, adds what it cannot read, and keeps the record."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from coordinator.released import Released
from ppfl.crypto import read_public_key
from ppfl.errors import PpflError, QuorumError
from ppfl.federation import Aggregation, Checkpoint, Journal, VectorPlan
from ppfl.federation.journal import (
    Alarm,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.learning.files import load_model
from ppfl.settings import Study
from sites.messages import SEALED, read_sealed, write_sealed
from sites.vectors import closing_plan, create_suite, enrolment_plan, shapes_of, update_plan

_POLL_S = 0.2
_VERSIONS = ("ppfl", "flwr", "phe", "gmpy2", "numpy", "torch", "torchvision")


@dataclass(frozen=True, slots=True)
class _Answer:
    """One node's answer that is not a refusal."""

    node: int
    site: str
    sealed: bytes
    clear: ConfigRecord


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
        ModelError: the starting parameters cannot be read.
    """

    def __init__(self, grid: Grid, folder: Path, *, connect_s: float = 120.0) -> None:
        self.study = Study.read(folder / "study.toml")
        self.journal = Journal(folder / "journal.jsonl")
        self._grid, self._connect_s = grid, connect_s
        self._checkpoint_file = folder / "checkpoint.bin"
        encrypted = self.study.encryption.custody != "unsafe_plaintext"
        self._public = read_public_key(folder / "public.key") if encrypted else None
        self._suite = create_suite(self.study, self._public)
        self._start, metadata = load_model(folder / "start.safetensors")
        shared = json.loads(metadata["shared"])
        shapes = {name: shape for name, shape in shapes_of(self._start).items() if name in shared}
        self._updates = update_plan(self.study, shapes)
        self._released = Released(self.journal)
        self._sites: dict[int, str] = {}  # by Flower's node id
        self._enrolment = self._aggregation(enrolment_plan(self.study))
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
            for answer in self._ask("query.enroll", new, self._request(round_number=0), 0):
                if self._accept(self._enrolment, answer, 0):
                    self._sites[answer.node] = answer.site
                    event = SiteEnrolled(site=answer.site, bytes_up=len(answer.sealed))
                    self.journal.write(event)
        self._enrolled = self._enrolment.total().to_bytes()

    def _round(self, number: int) -> None:
        started = time.monotonic()
        sites = tuple(self._sites.values())
        self.journal.write(RoundStarted(round=number, sites=sites))
        content = self._request(round_number=number)
        write_sealed(content, "enrolled", self._enrolled)
        if number == 1:
            content["start"] = ArrayRecord({name: Array(a) for name, a in self._start.items()})
            bytes_down = len(self._enrolled) + sum(array.nbytes for array in self._start.values())
        else:
            write_sealed(content, "total", self._total)
            bytes_down = len(self._enrolled) + len(self._total)
        aggregation = self._aggregation(self._updates)
        for answer in self._ask(MessageType.TRAIN, list(self._sites), content, number):
            began = time.monotonic()
            if self._accept(aggregation, answer, number):
                add_s = round(time.monotonic() - began, 3)
                self._record(answer, number, bytes_down=bytes_down, add_s=add_s)
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
        content = self._request(round_number=number)
        write_sealed(content, "enrolled", self._enrolled)
        write_sealed(content, "total", self._total)
        aggregation = self._aggregation(closing_plan(self.study))
        models: list[str] = []
        for answer in self._ask("query.close", list(self._sites), content, number):
            if self._accept(aggregation, answer, number):
                self._released.note(answer.site, answer.clear)
                models.append(str(answer.clear["model-sha256"]))
        content = self._request(round_number=number)
        write_sealed(content, "total", aggregation.total().to_bytes())
        for answer in self._ask("query.release", list(self._sites), content, number):
            self._released.note(answer.site, answer.clear)
        self._released.publish()
        self.journal.write(
            StudyClosed(
                rounds=self._done,
                sites=aggregation.answered,
                model_sha256=Counter(models).most_common(1)[0][0],
                seconds=round(time.monotonic() - started, 3),
            )
        )

    def _record(self, answer: _Answer, number: int, *, bytes_down: int, add_s: float) -> None:
        seconds = {str(k): float(v) for k, v in json.loads(str(answer.clear["seconds"])).items()}
        clipped = int(str(answer.clear["clipped"]))
        self.journal.write(
            SiteAnswered(
                round=number,
                site=answer.site,
                bytes_up=len(answer.sealed),
                bytes_down=bytes_down,
                seconds=seconds | {"add": add_s},
                clipped=clipped,
            )
        )
        self._released.note(answer.site, answer.clear)
        if clipped:
            sentence = f"{answer.site} clipped {clipped} of {self._updates.values} values"
            self.journal.write(Alarm(round=number, code="clipping", sentence=sentence))

    def _aggregation(self, plan: VectorPlan) -> Aggregation:
        federation = self.study.federation
        return Aggregation(
            self._suite,
            values=plan.values,
            sites=federation.sites,
            minimum_sites=federation.minimum_sites,
        )

    def _accept(self, aggregation: Aggregation, answer: _Answer, number: int) -> bool:
        """Whether an answer went into the total; if not, the journal says why."""
        try:
            aggregation.accept(answer.site, answer.sealed)
        except PpflError as error:
            failed = SiteFailed(
                round=number, site=answer.site, code=error.code, sentence=str(error)
            )
            self.journal.write(failed)
            return False
        return True

    def _request(self, *, round_number: int) -> RecordDict:
        content = RecordDict()
        content["request"] = ConfigRecord(
            {"study": self.study.fingerprint(), "run": self._run, "round": round_number}
        )
        return content

    def _ask(
        self, kind: str, nodes: list[int], content: RecordDict, number: int
    ) -> Iterator[_Answer]:
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
                try:
                    yield self._read(node, reply)
                except _Refusal as refusal:
                    self._failed(number, node, refusal.site, refusal.code, refusal.sentence)
            if not arrived:
                time.sleep(_POLL_S)
        for node in waiting.values():
            sentence = f"No answer within {deadline_s:g} s."
            self._failed(number, node, "", "deadline", sentence)

    def _read(self, node: int, reply: Message) -> _Answer:
        if reply.has_error():
            raise _Refusal("", f"flower-{reply.error.code}", "Flower lost the site or its process.")
        records = reply.content.config_records
        if refusal := records.get("refusal"):
            raise _Refusal(*(str(refusal[key])[:200] for key in ("site", "code", "sentence")))
        try:
            clear = records["answer"]
            site = str(clear["site"])
            return _Answer(node, site, read_sealed(reply.content, SEALED), clear)
        except (KeyError, ValueError):
            raise _Refusal("", "malformed-message", "The answer is not of this study.") from None

    def _failed(self, number: int, node: int, site: str, code: str, sentence: str) -> None:
        name = self._sites.get(node) or site or f"node {node}"
        self.journal.write(SiteFailed(round=number, site=name, code=code, sentence=sentence))


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of this process
    """A site's answer that carries no vector."""

    def __init__(self, site: str, code: str, sentence: str) -> None:
        super().__init__(code)
        self.site, self.code, self.sentence = site, code, sentence
