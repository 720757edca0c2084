"""Sites and coordinators that are lost on the way, in process: what is asked and made again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict

import coordinator.roster
import sites.hospital
from coordinator.rounds import Coordinator
from ppfl.errors import RunError
from ppfl.federation import Checkpoint, read_journal
from ppfl.federation.journal import (
    AnyEvent,
    LeftHospital,
    RoundClosed,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyClosed,
    StudyFailed,
    StudyStarted,
)
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.study_model import StudyModel
from ppfl.settings import SiteFile
from simulations.local_grid import LocalGrid
from sites.client_app import app
from sites.hospital import Hospital
from sites.kept_answer import KeptAnswer
from sites.requests import Answer, Request
from tests.live.replay import PlayedRound, Replay, rounds_of
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario

_PLAIN = "unsafe_plaintext"


class _PowerCut(BaseException):
    """Nothing at the coordinator or in Flower catches it: the process ends here."""


class _Grid(LocalGrid):
    """A grid on which some replies are lost, and nodes come and go.

    Args:
        lose: for "train north" and the like, the codes of Flower's errors in place of replies.
        cut: the coordinator ends when this reply would arrive.
    """

    def __init__(self, lose: dict[str, list[int]] | None = None, *, cut: str = "") -> None:
        super().__init__(app, sites=len(SITES))
        self._lose, self._cut = lose or {}, cut
        self.away: set[int] = set()
        self.answered: list[str] = []

    def connect(self, site: str, *, node: int) -> None:
        """A node more, with a site's folder."""
        place = {"partition-id": SITES.index(site), "num-partitions": len(SITES)}
        self._contexts[node] = Context(
            run_id=1, node_id=node, node_config=place, state=RecordDict(), run_config={}
        )

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.away]

    def _call(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        place = self._contexts[node].node_config["partition-id"]
        asked = f"{message.metadata.message_type} {SITES[int(str(place))]}"
        reply = super()._call(message)
        if asked == self._cut:
            raise _PowerCut
        self.answered.append(asked)
        if codes := self._lose.get(asked):
            return Message(Error(code=codes.pop(0), reason=""), reply_to=message)
        return reply


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each training of a site."""
    train, calls = sites.hospital.train_locally, []

    def count(*arguments: Any, **options: Any) -> Any:
        calls.append(options["round_number"])
        return train(*arguments, **options)

    monkeypatch.setattr(sites.hospital, "train_locally", count)
    return calls


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPFL_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(coordinator.roster, "_POLL_S", 0.01)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the model of two rounds in which nothing was lost."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PPFL_RUN", str(folder))
        prepare_once(tiny_scenario(_PLAIN), folder)
        Coordinator(LocalGrid(app, sites=len(SITES)), folder).run()
    return _closed(_events(folder)).model_sha256


def _events(folder: Path) -> list[AnyEvent]:
    return read_journal(folder / "journal.jsonl")


def _closed(events: list[AnyEvent]) -> StudyClosed:
    assert isinstance(events[-1], StudyClosed)
    return events[-1]


def _study(events: list[AnyEvent]) -> str:
    return next(e.study_fingerprint for e in events if isinstance(e, StudyStarted))


def _left(folder: Path, site: str) -> list[tuple[int, int, bool]]:
    """Round, bytes of the sealed vector, and whether it left before, of each update."""
    journal = read_journal(folder / "sites" / site / "work" / "journal.jsonl")
    left = [event for event in journal if isinstance(event, LeftHospital)]
    return [(e.round, e.items[0].bytes, e.again) for e in left if "update" in e.items[0].what]


def test_an_upload_that_broke_off_is_sent_again_without_training_again(
    folder: Path, trained: list[int], undisturbed: str
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)
    Coordinator(_Grid({"train north": [3, 8]}), folder).run()
    assert trained == [1, 1, 1, 2, 2, 2]
    (first, size, _), *_ = left = _left(folder, "north")
    assert left == [(1, size, False), (1, size, True), (1, size, True), (2, size, False)]
    assert first == 1
    events = _events(folder)
    again = [(e.site, e.code) for e in events if isinstance(e, SiteAskedAgain)]
    assert again == [("north", "flower-3"), ("north", "flower-8")]
    assert not any(isinstance(event, SiteFailed) for event in events)
    assert _closed(events).model_sha256 == undisturbed
    kept = folder / "sites" / "north" / "work" / "sealed-answer.bin"
    assert kept.stat().st_size < 1000  # digests alone


def test_of_two_processes_that_did_the_same_the_first_is_sent(tmp_path: Path) -> None:
    """Flower gave the first up, as where its clock stepped, and started the second; both go on."""
    study = prepare_once(tiny_scenario(_PLAIN), tmp_path / "run")
    site = SiteFile.read(tmp_path / "run" / "sites" / "north" / "site.toml")
    site.work.mkdir()
    first, second = (Answer(sealed=text, model_sha256="ab" * 32) for text in (b"first", b"second"))
    other = KeptAnswer(site.work, site="north", study=study.fingerprint())

    def make() -> Answer:
        other.write("task", first, round_number=1)
        return second

    request = Request(study.fingerprint(), "ab", 1)
    assert Hospital(site)._kept_or_made(request, "task", make) == (first, True)
    assert other.read("task") == first


def test_a_site_that_is_lost_whenever_it_is_asked_is_left_out(
    folder: Path, trained: list[int]
) -> None:
    prepare_once(tiny_scenario(_PLAIN, training={"rounds": 1}), folder)
    grid = _Grid({"train north": [8] * 9})
    Coordinator(grid, folder).run()
    assert grid.answered.count("train north") == 3
    failed = [(e.site, e.code) for e in _events(folder) if isinstance(e, SiteFailed)]
    assert failed == [("north", "flower-8")]
    assert _closed(_events(folder)).sites == SITES  # it takes part in the closing again


def test_a_site_that_raised_is_not_asked_again(folder: Path, trained: list[int]) -> None:
    prepare_once(tiny_scenario(_PLAIN, training={"rounds": 1}), folder)
    grid = _Grid({"train north": [2]})
    Coordinator(grid, folder).run()
    assert grid.answered.count("train north") == 1


@pytest.mark.parametrize("back_s", [0.0, 60.0], ids=["for good", "for a while"])
def test_a_site_that_goes_away_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, back_s: float
) -> None:
    monkeypatch.setattr(coordinator.roster, "_BACK_S", back_s)
    prepare_once(tiny_scenario(_PLAIN, training={"rounds": 1}), folder)
    looked: list[int] = []

    class Leaving(_Grid):
        def get_node_ids(self) -> Iterable[int]:
            if self.away:
                looked.append(1)
            if len(looked) > 3:
                self.away.clear()
            return super().get_node_ids()

        def _call(self, message: Message) -> Message:
            reply = super()._call(message)
            if self.answered[-1:] == ["train north"] and not looked:
                self.away.add(2)
            return reply

    grid = Leaving({"train north": [5]})
    Coordinator(grid, folder).run()
    events = _events(folder)
    (closed,) = [event.sites for event in events if isinstance(event, RoundClosed)]
    assert set(closed) == (set(SITES) if back_s else {"east", "west"})
    failed = [(e.site, e.code) for e in events if isinstance(e, SiteFailed)]
    assert failed == ([] if back_s else [("north", "flower-5")])


def test_another_run_of_the_study_gets_what_was_sealed_before_the_crash(
    folder: Path, trained: list[int], undisturbed: str
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)
    with pytest.raises(_PowerCut):
        Coordinator(_Grid(cut="train west"), folder).run()
    assert trained == [1, 1, 1]
    Coordinator(_Grid(), folder).run(resume=True)
    assert trained == [1, 1, 1, 2, 2, 2]
    events = _events(folder)
    runs = [event.run for event in events if isinstance(event, StudyStarted)]
    assert len(set(runs)) == 2
    assert [again for _, _, again in _left(folder, "west")] == [False, True, False]
    assert _closed(events).model_sha256 == undisturbed


def test_with_fewer_sites_enrolled_the_update_is_another(folder: Path, trained: list[int]) -> None:
    prepare_once(tiny_scenario(_PLAIN, training={"rounds": 1}), folder)
    with pytest.raises(_PowerCut):
        Coordinator(_Grid(cut="train west"), folder).run()
    grid = _Grid()
    grid.away.add(2)
    Coordinator(grid, folder, connect_s=0).run(resume=True)
    assert trained == [1] * 5  # weights and normalisation are those of two sites now


@pytest.mark.parametrize("custody", [_PLAIN, "shared"])
def test_pixels_are_normalised_by_the_first_rounds_sites_in_all_rounds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, custody: str
) -> None:
    normalisations, train = [], sites.hospital.train_locally

    def note(*arguments: Any, **options: Any) -> Any:
        normalisations.append(options["normalisation"])
        return train(*arguments, **options)

    monkeypatch.setattr(sites.hospital, "train_locally", note)
    study = prepare_once(tiny_scenario(custody, training={"rounds": 3}), folder)

    class Late(_Grid):
        def _call(self, message: Message) -> Message:
            reply = super()._call(message)
            if self.answered.count("train west") == 1:
                self.away.clear()
            return reply

    grid = Late(cut="query.close north")
    grid.away.add(1)  # east, until after the first round
    with pytest.raises(_PowerCut):
        Coordinator(grid, folder, connect_s=0).run()
    again = _Grid()
    again.away.add(2)  # started again before the end, without north
    Coordinator(again, folder, connect_s=0).run(resume=True)
    assert len(normalisations) == 2 + 3 + 3
    assert len(set(normalisations)) == 1
    for site in ("east", "west"):
        model = StudyModel.read(folder / "sites" / site / "work" / "model.safetensors")
        assert model.normalisation == pytest.approx(normalisations[0])
    # and the replay of who took part says the same
    events = _events(folder)
    played = rounds_of(events)
    assert [each.enrolled for each in played] == [{"north", "west"}, set(SITES), set(SITES)]
    start, _ = load_model(folder / "start.safetensors")
    files = [SiteFile.read(folder / "sites" / name / "site.toml") for name in SITES]
    replay = Replay(study, start, files, cache=tmp_path / "cache")
    assert parameters_sha256(replay.model_after(played)) == _closed(events).model_sha256
    # the sum is of that run, and is needed
    (folder / "enrolment.bin").unlink()
    with pytest.raises(RunError, match="enrolment"):
        Coordinator(_Grid(), folder).run(resume=True)


def test_local_layers_are_of_one_run_and_so_is_the_update(folder: Path, trained: list[int]) -> None:
    prepare_once(
        tiny_scenario(_PLAIN, model={"local_layers": ["fc"]}, training={"rounds": 1}), folder
    )
    with pytest.raises(_PowerCut):
        Coordinator(_Grid(cut="train west"), folder).run()
    Coordinator(_Grid(), folder).run(resume=True)
    assert trained == [1] * 6


def test_a_site_with_a_new_node_takes_its_place_and_is_not_counted_twice(
    folder: Path, undisturbed: str
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)

    class Renewing(_Grid):
        def _call(self, message: Message) -> Message:
            reply = super()._call(message)
            if self.answered.count("train north") == 1:
                self.away.add(2)
                self.connect("north", node=9)
            return reply

    Coordinator(Renewing(), folder).run()
    events = _events(folder)
    assert [e.site for e in events if isinstance(e, SiteEnrolled)] == [*SITES, "north"]
    assert [set(e.sites) for e in events if isinstance(e, RoundClosed)] == [set(SITES)] * 2
    assert not any(isinstance(event, SiteFailed) for event in events)
    assert _closed(events).model_sha256 == undisturbed


def test_two_nodes_of_one_name_are_refused_while_both_are_there(
    folder: Path, undisturbed: str
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)
    grid = _Grid()
    grid.connect("north", node=9)
    Coordinator(grid, folder).run()
    events = _events(folder)
    failed = {(e.site, e.code, e.sentence) for e in events if isinstance(e, SiteFailed)}
    ((site, code, sentence),) = failed
    assert (site, code) == ("north", "duplicate-answer")
    assert "two nodes say that they are north, 2 and 9" in sentence
    assert _closed(events).model_sha256 == undisturbed


def test_a_round_that_is_complete_is_in_the_journal_although_the_run_was_cut_off_before(
    folder: Path, trained: list[int], undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)
    write = Checkpoint.write

    def cut(checkpoint: Checkpoint, path: Path) -> None:
        write(checkpoint, path)
        if path.name == "checkpoint.bin":
            raise _PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", cut)
        with pytest.raises(_PowerCut):
            Coordinator(_Grid(), folder).run()
    Coordinator(_Grid(), folder).run(resume=True)
    assert trained == [1, 1, 1, 2, 2, 2]
    events = _events(folder)
    closed = [event for event in events if isinstance(event, RoundClosed)]
    assert [(event.round, set(event.sites)) for event in closed] == [
        (1, set(SITES)),
        (2, set(SITES)),
    ]
    total = Checkpoint.read(folder / "checkpoint-earlier.bin", study=_study(events)).total
    assert closed[0].total_sha256 == hashlib.sha256(total).hexdigest()
    assert closed[0].seconds > 0
    assert _closed(events).model_sha256 == undisturbed


def test_a_fault_in_the_code_is_said_without_what_it_was_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_once(tiny_scenario(_PLAIN), folder)

    def fail(*_: Any) -> None:
        raise KeyError("a patient")

    monkeypatch.setattr(Coordinator, "_accept", fail)
    with pytest.raises(KeyError):
        Coordinator(_Grid(), folder).run()
    (failed,) = [event for event in _events(folder) if isinstance(event, StudyFailed)]
    assert failed.code == "internal"
    assert failed.sentence.startswith("KeyError in test_resend.py, line ")


def test_a_replay_of_who_took_part_gives_the_same_model_bit_for_bit(
    folder: Path, tmp_path: Path, undisturbed: str
) -> None:
    """The replay by which the studies of real processes are checked: see tests/live."""
    study = prepare_once(tiny_scenario(_PLAIN), folder)
    Coordinator(_Grid({"train north": [2]}), folder).run()
    events = _events(folder)
    first, second = rounds_of(events)
    assert first == PlayedRound(1, frozenset(SITES), frozenset(SITES) - {"north"})
    assert second == PlayedRound(2, frozenset(SITES), frozenset(SITES))
    start, _ = load_model(folder / "start.safetensors")
    files = [SiteFile.read(folder / "sites" / name / "site.toml") for name in SITES]
    replay = Replay(study, start, files, cache=tmp_path / "cache")
    model = parameters_sha256(replay.model_after([first, second]))
    assert model == _closed(events).model_sha256
    assert model != undisturbed
    whole = [PlayedRound(1, second.enrolled, second.contributors), second]
    assert parameters_sha256(replay.model_after(whole)) == undisturbed
    closed = next(event for event in events if isinstance(event, RoundClosed))
    with pytest.raises(AssertionError, match="closed twice"):
        rounds_of([*events, closed])
