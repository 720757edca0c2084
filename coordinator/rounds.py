"""The coordinator's round loop: it asks, adds what it cannot read, and keeps the record."""

from __future__ import annotations

import hashlib
import secrets
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid

from coordinator.catching_up import CatchingUp
from coordinator.enrolment import Enrolment
from coordinator.records import Records
from coordinator.released import Released
from coordinator.roster import Answered, Roster
from ppfl.codec import Suite
from ppfl.crypto import read_public_key
from ppfl.crypto.signing import read_signing_key
from ppfl.errors import (
    EnrolmentError,
    MalformedMessageError,
    ModelError,
    OwnVectorError,
    PpflError,
    QuorumError,
    SpoiledTotalError,
    StaleRoundError,
    StudyMismatchError,
)
from ppfl.federation import Aggregation, Checkpoint, Journal, read_events
from ppfl.federation.ciphertexts import CIPHERTEXTS, KeptCiphertexts
from ppfl.federation.journal import (
    INTERNAL,
    Alarm,
    MeanXRaysReleased,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteEnrolled,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.federation.site_keys import JOURNAL_KEY
from ppfl.federation.xray_sums import XRaySums
from ppfl.files import lock_file
from ppfl.learning.files import load_model
from ppfl.learning.models import shared_names
from ppfl.settings import Study
from sites.clear import ClearPart
from sites.closing import closing_plan
from sites.messages import write_request
from sites.requests import Refusal, Request
from sites.traffic import site_traffic
from sites.vectors import create_suite, enrolment_plan, shapes_of, update_plan

_UNREADABLE = {
    error.code
    for error in (
        EnrolmentError,
        MalformedMessageError,
        OwnVectorError,
        QuorumError,
        StaleRoundError,
        StudyMismatchError,
    )
}
_VERSIONS = ("ppfl", "flwr", "phe", "gmpy2", "numpy", "torch", "torchvision")


class Coordinator:
    """One run of one study.

    Args:
        grid: Flower's way to the sites.
        folder: the run's folder: study.toml, public.key and start.safetensors lie there, the
            journal and the checkpoint are written there.
        connect_s: seconds to wait for the study's sites to connect.
        journal_key: private key that signs the journal's records; else it lies in the folder, too.

    Raises:
        SettingsError: the study, or the sites' keys, cannot be read.
        KeyMaterialError: the public key, or the signing key, cannot be used.
        ModelError: the starting parameters cannot be read, or are not those of a network with the
            study's local layers.
    """

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        *,
        connect_s: float = 120.0,
        journal_key: Path | None = None,
    ) -> None:
        self.study = Study.read(folder / "study.toml")
        self._folder = folder
        self._signer = read_signing_key(journal_key or folder / JOURNAL_KEY)
        self.journal = Journal(folder / "journal.jsonl", signer=self._signer)
        self._records = Records(folder, self.study, self.journal)
        self._ciphertexts = KeptCiphertexts(folder / CIPHERTEXTS)
        self._connect_s = connect_s
        self._roster = Roster(grid, self.study.federation, self.journal)
        self._checkpoint_file = folder / "checkpoint.bin"
        self._earlier_file = folder / "checkpoint-earlier.bin"
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
        counts = self._aggregation(self._suite, enrolment_plan(self.study).values)
        self._enrolment = Enrolment(folder, self.study, counts)
        self._run, self._done, self._total = secrets.token_hex(8), 0, b""
        self._catching_up = CatchingUp(folder, self.study, self._roster, self._request)

    def run(self, *, resume: bool = False) -> None:
        """Run the study from its first round, or from the last complete one, to the model.

        Raises:
            QuorumError: too few sites connected, enrolled or answered; the checkpoint stays.
            SpoiledTotalError: the sites refuse a total; the checkpoint before it stays, too.
            RunError: another process runs it in this folder, or the disk is full.
        """
        with lock_file(self._folder / ".lock"):  # two would close rounds twice
            self._run_alone(resume=resume)

    def _run_alone(self, *, resume: bool) -> None:
        started = time.monotonic()
        try:
            if resume and self._checkpoint_file.exists():
                self._resume()
            self._announce()
            self._roster.wait(self._connect_s)
            for number in range(self._done + 1, self.study.training.rounds + 1):
                self._enroll()
                if number == 1 and self.study.mean_xray_size:
                    self._release_mean_xrays()
                self._round(number)
            self._enroll()
            self._close(started)
        except PpflError as error:
            self._fail(error.code, str(error))
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            self._fail(INTERNAL, f"{type(error).__name__} in {where}")
            raise

    def _fail(self, code: str, sentence: str) -> None:
        self.journal.write(StudyFailed(round=self._done, code=code, sentence=sentence))

    def _resume(self) -> None:
        kept = Checkpoint.read(self._checkpoint_file, study=self.study.fingerprint())
        self._run, self._done, self._total = kept.run, kept.round_number, kept.total
        if self._done:
            self._enrolment.resume(self._run)
        self._records.resume(self._done, self._total)
        self._catching_up.resume(self._done)

    def _announce(self) -> None:
        study = self.study
        traffic = site_traffic(study, self._suite, self._start, done=self._done)
        kept = study.federation.keep_ciphertexts * len(study.federation.sites)
        kept += study.training.server_optimiser != "average"  # the totals
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
                update_bytes=traffic.round_up,
                round_bytes_down=traffic.round_down,
                study_bytes_up=traffic.all_up,
                study_bytes_down=traffic.all_down,
                kept_bytes=kept * traffic.round_up * (study.training.rounds - self._done),
                journal_key=self._signer.public,
                site_keys=self._records.site_keys,
                versions={name: version(name) for name in _VERSIONS},
                resumed_after=self._done,
            )
        )

    def _enroll(self) -> None:
        """Enroll every node that is not enrolled yet: all of them first, a late one later.

        A site may come with another node, because its SuperNode was set up anew or has a new key.
        Its counts are in the total and are not added again; should its images have changed, its
        next update has the new weight, for a total tells the weights that are in it. A site that
        could not build its model enrolls again: it may have lost the starting parameters.
        """
        self._roster.forget(ModelError.code)
        new = self._roster.unknown()
        if new:
            content = self._request(0, start=self._start)
            bytes_down = sum(array.nbytes for array in self._start.values())
            for answered in self._roster.ask("query.enroll", new, content, 0):
                site, sealed = answered.site, answered.answer.sealed
                try:
                    self._enrolment.add(site, sealed)
                    self._roster.add(answered)
                except PpflError as error:
                    self._leave_out(answered, 0, error)
                    continue
                self.journal.write(
                    SiteEnrolled(site=site, bytes_up=len(sealed), bytes_down=bytes_down)
                )
        self._enrolment.close(self._run)

    def _release_mean_xrays(self) -> None:
        """Have the sites add up their X-rays and open the federation's sum, once in a run.

        The sum is on disk before it is opened, because the sites open no other one after it.
        """
        if any(read_events(self.journal.path, MeanXRaysReleased)):
            return
        nodes = self._roster.nodes
        if self._xrays_file.exists():
            total = Checkpoint.read(self._xrays_file, study=self.study.fingerprint()).total
        else:
            sums = XRaySums(self.study, self._suite)
            aggregation = self._aggregation(sums.suite, sums.values)
            content = self._request(0, enrolled=self._enrolment.total)
            for answered in self._roster.ask("query.add_xrays", nodes, content, 0):
                self._accept(aggregation, answered, 0)
            total = self._total_of(aggregation)
            kept = Checkpoint(self.study.fingerprint(), self._run, 0, total)
            kept.write(self._xrays_file)
        content = self._request(0, total=total)
        for answered in self._roster.ask("query.release_xrays", nodes, content, 0):
            try:
                self._released.note_mean_xrays(answered.site, answered.answer)
            except MalformedMessageError as error:
                self._leave_out(answered, 0, error)
        self._released.publish_mean_xrays(bytes_up=len(total))

    def _round(self, number: int) -> None:
        started = time.monotonic()
        self.journal.write(RoundStarted(round=number, sites=self._roster.names))
        nodes = self._catching_up.bring_into_step(number, self._start)
        content = self._request_after_record(number)
        bytes_down = len(self._enrolment.total) + len(self._enrolment.first) + len(self._total)
        vectors: dict[str, str] = {}
        aggregation = self._aggregation(self._suite, self._updates.values)
        for answered in self._roster.ask(MessageType.TRAIN, nodes, content, number):
            began = time.monotonic()
            if self._accept(aggregation, answered, number):
                add_s = round(time.monotonic() - began, 3)
                self._catching_up.note(answered.site, number)
                vectors[answered.site] = self._keep(answered, number)
                self._record(
                    answered,
                    number,
                    bytes_down=bytes_down,
                    add_s=add_s,
                    sha256=vectors[answered.site],
                )
        total = self._total_of(aggregation)
        self._catching_up.keep(number, total)
        # the sites have opened the earlier total, and may refuse this one
        self._checkpoint().write(self._earlier_file)
        self._done, self._total = number, total
        self._checkpoint().write(self._checkpoint_file)
        self._records.close(
            RoundClosed(
                round=number,
                sites=aggregation.answered,
                seconds=round(time.monotonic() - started, 3),
                total_sha256=hashlib.sha256(total).hexdigest(),
                vectors=vectors,
            )
        )
        self._released.publish()

    def _close(self, started: float) -> None:
        number = self._done + 1
        content = self._request_after_record(number)
        aggregation = self._aggregation(self._suite, closing_plan(self.study).values)
        models: list[str] = []
        nodes = self._catching_up.bring_into_step(number, self._start)
        for answered in self._roster.ask("query.close", nodes, content, number):
            if self._accept(aggregation, answered, number):
                self._records.note(answered, number)
                self._released.note(answered.site, answered.answer)
                models.append(answered.answer.model_sha256)
        content = self._request(number, total=self._total_of(aggregation))
        for answered in self._roster.ask("query.release", nodes, content, number):
            try:
                self._released.check(answered.answer, after=self._done, final=True)
            except MalformedMessageError as error:
                self._leave_out(answered, number, error)
            else:
                self._released.note(answered.site, answered.answer)
        self._released.publish()  # with an alarm where sites hold other models
        digest, votes = Counter(models).most_common(1)[0]
        self.journal.write(
            StudyClosed(
                rounds=self._done,
                sites=aggregation.answered,
                model_sha256=digest if 2 * votes > len(models) else "",
                seconds=round(time.monotonic() - started, 3),
            )
        )

    def _keep(self, answered: Answered, number: int) -> str:
        """The digest of a vector, after it was kept if the study has it so."""
        sealed = answered.answer.sealed
        if self.study.federation.keep_ciphertexts:
            self._ciphertexts.write(number, answered.site, sealed)
        return hashlib.sha256(sealed).hexdigest()

    def _record(
        self, answered: Answered, number: int, *, bytes_down: int, add_s: float, sha256: str
    ) -> None:
        answer, clipped = answered.answer, answered.answer.clipped
        self._records.note(answered, number)  # first: who is in a round has countersigned
        clear = ClearPart.of(answered.site, answer).model_dump_json()
        self.journal.write(
            SiteAnswered(
                round=number,
                site=answered.site,
                bytes_up=len(answer.sealed),
                bytes_down=bytes_down,
                clear_bytes=len(clear),
                sealed_sha256=sha256,
                seconds=dict(answer.seconds) | {"add": add_s},
                clipped=clipped,
            )
        )
        self._released.note(answered.site, answered.answer)
        if clipped:
            sentence = f"{answered.site} clipped {clipped} parameters"
            self.journal.write(
                Alarm(round=number, site=answered.site, code="clipping", sentence=sentence)
            )

    def _aggregation(self, suite: Suite, values: int) -> Aggregation:
        federation = self.study.federation
        return Aggregation(
            suite,
            values=values,
            sites=federation.sites,
            minimum_sites=federation.minimum_sites,
        )

    def _accept(self, aggregation: Aggregation, answered: Answered, number: int) -> bool:
        """Whether an answer went into the total; if not, the journal says why."""
        try:
            self._released.check(answered.answer, after=number - 2)
            aggregation.accept(answered.site, answered.answer.sealed)
        except PpflError as error:
            self._leave_out(answered, number, error)
            return False
        return True

    def _leave_out(self, answered: Answered, number: int, error: PpflError) -> None:
        self._roster.fail(number, answered.node, Refusal(answered.site, error.code, str(error)))

    def _total_of(self, aggregation: Aggregation) -> bytes:
        """The sum of a round's answers.

        Raises:
            SpoiledTotalError: no site answered, because they refuse what they were sent to open.
            QuorumError: too few answered for another reason.
        """
        try:
            return aggregation.total().to_bytes()
        except QuorumError:
            codes = self._roster.refused
            refusing = [site for site, code in codes.items() if code in _UNREADABLE]
            if aggregation.answered or not refusing:
                raise
            raise self._spoiled({site: codes[site] for site in refusing}) from None

    def _spoiled(self, codes: Mapping[str, str]) -> SpoiledTotalError:
        """Which total it is that the sites refuse with these codes, who is in it, what to do."""
        if set(codes.values()) == {EnrolmentError.code}:
            what, inside, step = "the sums of enrolment", self._enrolment.sites, ""
        else:
            what, inside = f"the total of round {self._done}", self._records.sites
            step = f", put {self._earlier_file.name} in the place of {self._checkpoint_file.name}"
        wrong = ", ".join(site for site, code in codes.items() if code == OwnVectorError.code)
        whose = f"{wrong} found that it was its own" if wrong else "none found that it was its own"
        return SpoiledTotalError(
            f"{', '.join(codes)} refuse {what}, in which are {', '.join(inside)}: one of these "
            f"sent a vector that is not what it should be; {whose}, and the coordinator cannot "
            f"see whose it was; find out, end that site{step}, and go on without it"
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.study.fingerprint(), self._run, self._done, self._total)

    def _request_after_record(self, number: int) -> RecordDict:
        """A request for a round, with what came out of the one before."""
        return self._request(
            number,
            enrolled=self._enrolment.total,
            first_enrolled=self._enrolment.first,
            total=self._total,
            record=self._records.line,
            history=self._catching_up.history,
        )

    def _request(self, round_number: int, **fields: Any) -> RecordDict:
        study = self.study.fingerprint()
        return write_request(Request(study, self._run, round_number, **fields))
