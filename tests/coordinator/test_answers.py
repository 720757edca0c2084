"""What the coordinator does with answers that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import coordinator.roster
from coordinator.rounds import Coordinator
from ppfl.errors import ApprovalError, SpoiledTotalError
from ppfl.federation import VectorPlan, read_journal
from ppfl.federation.journal import Refused, RoundClosed, SiteFailed, StudyClosed, StudyFailed
from ppfl.learning.files import load_model
from ppfl.settings import SiteFile, read_settings
from simulations.local_grid import LocalGrid
from sites.client_app import app
from sites.messages import SEALED, read_sealed, write_sealed
from sites.vectors import create_suite, enrolment_plan, shapes_of, update_plan
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario

Tamper = Callable[[Message, Message], Message | None]
"""What the coordinator gets for a request and a site's honest reply; None is nothing."""


class TamperingGrid(LocalGrid):
    """A grid on which node 2, the site north, does not send what its hospital answered."""

    def __init__(self, tamper: Tamper, *, kind: str = "train") -> None:
        super().__init__(app, sites=len(SITES))
        self._tamper, self._kind = tamper, kind

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for message_id in list(message_ids):
            request = self._waiting.get(message_id)
            reply: Message | None
            for reply in super().pull_messages([message_id]):
                assert request is not None
                if (
                    request.metadata.dst_node_id == 2
                    and request.metadata.message_type == self._kind
                ):
                    reply = self._tamper(request, reply)
                if reply is not None:
                    replies.append(reply)
        return replies


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[SiteFailed]]:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))

    def run(
        tamper: Tamper, *, custody: str = "unsafe_plaintext", **sections: dict[str, Any]
    ) -> list[SiteFailed]:
        scenario = tiny_scenario(custody, training={"rounds": 1}, **sections)
        prepare_once(scenario, folder)
        Coordinator(TamperingGrid(tamper), folder).run()
        events = read_journal(folder / "journal.jsonl")
        assert isinstance(events[-1], StudyClosed)
        closed = [event for event in events if isinstance(event, RoundClosed)]
        assert set(closed[0].sites) == {"east", "west"}
        return [event for event in events if isinstance(event, SiteFailed) and event.round == 1]

    return run


def test_a_site_whose_code_is_not_what_it_approved_says_so_and_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    prepare_once(tiny_scenario("unsafe_plaintext", training={"rounds": 1}), folder)
    path = folder / "sites" / "north" / "site.toml"
    site = read_settings(path, SiteFile).model_copy(update={"approved_code": "0" * 64})
    path.write_text(site.to_toml())
    Coordinator(LocalGrid(app, sites=len(SITES)), folder).run()
    events = read_journal(folder / "journal.jsonl")
    told = {(e.site, e.code, e.sentence) for e in events if isinstance(e, SiteFailed)}
    assert {(code, sentence) for _, code, sentence in told} == {
        ("approval", ApprovalError.public_sentence)
    }
    (closed,) = (event for event in events if isinstance(event, RoundClosed))
    assert set(closed.sites) == {"east", "west"}
    refused = read_journal(folder / "sites" / "north" / "work" / "journal.jsonl")
    assert all(isinstance(event, Refused) and event.code == "approval" for event in refused)


def _with_vector(reply: Message, change: Callable[[bytes], bytes]) -> Message:
    wire = change(read_sealed(reply.content, SEALED))
    write_sealed(reply.content, SEALED, wire)
    return reply


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda wire: wire[:-1], "bytes"),
        (lambda wire: b"", "bytes"),
        (lambda wire: wire[:-4] + b"\xff" * 4, "slot"),
    ],
    ids=["truncated", "empty", "beyond its slot"],
)
def test_bytes_that_are_no_vector_are_left_out_of_the_total(
    run: Callable[..., list[SiteFailed]], change: Callable[[bytes], bytes], sentence: str
) -> None:
    (failed,) = run(lambda _, reply: _with_vector(reply, change))
    assert (failed.site, failed.code) == ("north", "malformed-message")
    assert sentence in failed.sentence


@pytest.mark.slow
def test_ciphertexts_that_the_key_cannot_have_made_are_left_out(
    run: Callable[..., list[SiteFailed]], tmp_path: Path
) -> None:
    (failed,) = run(
        lambda _, reply: _with_vector(reply, lambda wire: wire[:-768] + b"\0" * 768),
        custody="shared",
        model={"local_layers": ["conv1", "stage2", "stage3", "stage4", "conv5"]},
    )
    assert (failed.site, failed.code) == ("north", "malformed-message")
    assert "is not in [1, N^3)" in failed.sentence


def test_a_vector_under_another_key_is_left_out(run: Callable[..., list[SiteFailed]]) -> None:
    def change(wire: bytes) -> bytes:
        return wire[:26] + b"\x07" * 32 + wire[58:]  # docs/formats.md: the key's fingerprint

    (failed,) = run(lambda _, reply: _with_vector(reply, change))
    assert (failed.site, failed.code) == ("north", "key-mismatch")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("site", "east", "wrong-site"),
        ("site", "../../etc", "malformed-message"),
        ("seconds", {"train": -1.0}, "malformed-message"),
        ("seconds", {"train": float("nan")}, "malformed-message"),
        ("seconds", {"train": 1e308}, "malformed-message"),
        ("seconds", {f"phase-{n}": 1.0 for n in range(9)}, "malformed-message"),
        ("clipped", "many", "malformed-message"),
        ("clipped", 2**53, "malformed-message"),
        ("released", {"somewhere": {}}, "malformed-message"),
        ("patients", ["Smith"], "malformed-message"),
    ],
)
def test_an_answer_whose_clear_part_is_nonsense_is_left_out(
    run: Callable[..., list[SiteFailed]], field: str, value: object, code: str
) -> None:
    def tamper(_: Message, reply: Message) -> Message:
        record = reply.content.config_records["answer"]
        record["clear"] = json.dumps(json.loads(str(record["clear"])) | {field: value})
        return reply

    (failed,) = run(tamper)
    assert (failed.site, failed.code) == ("north", code)


def test_an_empty_answer_and_a_lost_process_are_named(run: Callable[..., list[SiteFailed]]) -> None:
    (failed,) = run(lambda request, _: Message(RecordDict(), reply_to=request))
    assert (failed.site, failed.code) == ("north", "malformed-message")


def test_a_lost_process_is_named(run: Callable[..., list[SiteFailed]]) -> None:
    (failed,) = run(lambda request, _: Message(Error(code=3, reason="/patient"), reply_to=request))
    assert (failed.site, failed.code) == ("north", "flower-3")
    assert "patient" not in failed.sentence


def test_a_refusal_is_cut_to_a_bounded_length(run: Callable[..., list[SiteFailed]]) -> None:
    def tamper(request: Message, _: Message) -> Message:
        content = RecordDict()
        fields = {"site": "north", "code": "x" * 999, "sentence": "y" * 999}
        content["refusal"] = ConfigRecord(dict(fields))
        return Message(content, reply_to=request)

    (failed,) = run(tamper)
    assert (len(failed.code), len(failed.sentence)) == (200, 200)


def test_a_site_that_does_not_answer_in_time_is_left_out(
    run: Callable[..., list[SiteFailed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=wait)
    monkeypatch.setattr(coordinator.roster, "time", clock)
    (failed,) = run(lambda *_: None, federation={"deadline_s": 100.0})
    assert (failed.site, failed.code) == ("north", "deadline")
    assert 100 <= now[0] < 110


def _replay() -> Tamper:
    """North sends its update of the first round in all rounds."""
    kept: list[bytes] = []

    def tamper(_: Message, reply: Message) -> Message:
        kept.append(read_sealed(reply.content, SEALED))
        return _with_vector(reply, lambda _: kept[0])

    return tamper


def test_a_total_that_the_sites_refuse_is_named_and_can_be_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    # the coordinator cannot see it, but every site that opens the total can
    for _ in range(2):  # to go on from there helps nobody
        with pytest.raises(SpoiledTotalError) as told:
            Coordinator(TamperingGrid(_replay()), folder).run(resume=True)
    assert str(told.value) == (
        "east, north, west refuse the total of round 2, in which are east, north, west: one of "
        "these sent a vector that is not what it should be; none found that it was its own, and "
        "the coordinator cannot see whose it was; find out, end that site, put "
        "checkpoint-earlier.bin in the place of checkpoint.bin, and go on without it"
    )
    events = read_journal(folder / "journal.jsonl")
    codes = {e.code for e in events if isinstance(e, SiteFailed) and e.round == 3}
    assert codes == {"stale-round"}
    assert isinstance(events[-1], StudyFailed)
    assert (events[-1].code, events[-1].sentence) == ("spoiled-total", str(told.value))

    class WithoutNorth(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            return [1, 3]

    (folder / "checkpoint-earlier.bin").replace(folder / "checkpoint.bin")
    Coordinator(WithoutNorth(app, sites=len(SITES)), folder, connect_s=0).run(resume=True)
    events = read_journal(folder / "journal.jsonl")
    assert isinstance(events[-1], StudyClosed)
    closed = [(event.round, set(event.sites)) for event in events if isinstance(event, RoundClosed)]
    assert closed == [(1, set(SITES)), (2, set(SITES)), (2, {"east", "west"})]


@pytest.mark.parametrize("value", [1, 16383])
def test_garbage_that_no_one_can_tell_from_a_vector_spoils_the_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: int
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    study = prepare_once(tiny_scenario("unsafe_plaintext", training={"rounds": 1}), folder)
    suite = create_suite(study, None)
    start, _ = load_model(folder / "start.safetensors")
    values = update_plan(study, shapes_of(start)).values
    wire = suite.seal(np.full(values, value)).to_bytes()

    def tamper(_: Message, reply: Message) -> Message:
        return _with_vector(reply, lambda _: wire)

    with pytest.raises(SpoiledTotalError, match="refuse the total of round 1"):
        Coordinator(TamperingGrid(tamper), folder).run()


def test_a_site_finds_that_the_wrong_vector_was_its_own_and_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    seal, updates = VectorPlan.seal, []

    def seal_wrongly(*arguments: Any, **options: Any) -> Any:
        if "parameters" in options:
            updates.append(options)
            if len(updates) == 5:  # north's in round 2
                options["round_number"] = 7
        return seal(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(VectorPlan, "seal", seal_wrongly)
        with pytest.raises(SpoiledTotalError, match="north found that it was its own"):
            Coordinator(LocalGrid(app, sites=len(SITES)), folder).run()
    events = read_journal(folder / "journal.jsonl")
    codes = {e.site: e.code for e in events if isinstance(e, SiteFailed) and e.round == 3}
    assert codes == {"east": "stale-round", "north": "own-vector", "west": "stale-round"}
    (folder / "checkpoint-earlier.bin").replace(folder / "checkpoint.bin")
    Coordinator(LocalGrid(app, sites=len(SITES)), folder).run(resume=True)
    events = read_journal(folder / "journal.jsonl")
    assert isinstance(events[-1], StudyClosed)
    assert events[-1].sites == SITES


def test_sums_of_enrolment_that_the_sites_refuse_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    study = prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    other = study.model_copy(update={"seed": 1})
    counts = {"images": np.array(1), "class_images": np.ones(2, int), "pixels": np.ones(3, int)}
    suite = create_suite(other, None)
    wire = enrolment_plan(other).seal(suite, round_number=0, integers=counts).vector.to_bytes()

    def tamper(_: Message, reply: Message) -> Message:
        return _with_vector(reply, lambda _: wire)

    with pytest.raises(SpoiledTotalError, match="refuse the sums of enrolment") as told:
        Coordinator(TamperingGrid(tamper, kind="query.enroll"), folder).run()
    assert "checkpoint" not in str(told.value)
    refused = read_journal(folder / "sites" / "east" / "work" / "journal.jsonl")[-1]
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason) == (
        "enrolment",
        "enrolment: round 0: a total of another study",
    )
