"""The bytes that are told before a study starts, against those that then pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

from coordinator.rounds import Coordinator
from ppfl.federation import read_journal
from ppfl.federation.journal import SiteAnswered, StudyStarted, WillSend
from simulations.local_grid import LocalGrid
from sites.client_app import app
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario


class _Scales(LocalGrid):
    """Weighs each message as Flower puts it on the wire, by node."""

    def __init__(self) -> None:
        super().__init__(app, sites=len(SITES))
        self.up, self.down = Counter[int](), Counter[int]()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        for message in messages:
            self.down[message.metadata.dst_node_id] += _bytes(message.content)
        return super().push_messages(messages)

    def _call(self, message: Message) -> Message:
        reply = super()._call(message)
        self.up[message.metadata.dst_node_id] += _bytes(reply.content)
        return reply


def _bytes(content: RecordDict) -> int:
    return recorddict_to_proto(content).ByteSize()


@pytest.mark.parametrize(
    ("custody", "sections"),
    [
        ("unsafe_plaintext", {"model": {"local_layers": ["fc"]}}),
        ("unsafe_plaintext", {"federation": {"release_floor": 5, "mean_xray_size": 64}}),
        (
            "unsafe_plaintext",
            {"model": {"train_from": "stage4"}, "training": {"optimiser": "scaffold"}},
        ),
        pytest.param("shared", {"training": {"rounds": 1}}, marks=pytest.mark.slow),
    ],
    ids=["local layers", "mean X-rays", "control variates", "encrypted"],
)
def test_what_is_told_is_what_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, custody: str, sections: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    study = prepare_once(tiny_scenario(custody, **sections), folder)
    scales = _Scales()
    Coordinator(scales, folder).run()
    events = read_journal(folder / "journal.jsonl")
    started = events[0]
    assert isinstance(started, StudyStarted)
    for node, site in enumerate(SITES, start=1):
        assert scales.up[node] == pytest.approx(started.study_bytes_up, rel=0.01)
        assert scales.down[node] == pytest.approx(started.study_bytes_down, rel=0.01)
        told = read_journal(folder / "sites" / site / "work" / "journal.jsonl")[0]
        assert isinstance(told, WillSend)
        assert told == WillSend(
            time=told.time,
            site=site,
            rounds=study.training.rounds,
            round_bytes_up=started.update_bytes,
            round_bytes_down=started.round_bytes_down,
            study_bytes_up=started.study_bytes_up,
            study_bytes_down=started.study_bytes_down,
        )
    answered = [event for event in events if isinstance(event, SiteAnswered)]
    assert {event.bytes_up for event in answered} == {started.update_bytes}
    later = {event.bytes_down for event in answered if event.round > 1}
    assert later == ({started.round_bytes_down} if study.training.rounds > 1 else set())


def test_a_run_that_goes_on_tells_what_is_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)

    class Ending(_Scales):
        def _call(self, message: Message) -> Message:
            if (folder / "checkpoint.bin").exists():
                raise KeyboardInterrupt
            return super()._call(message)

    with pytest.raises(KeyboardInterrupt):
        Coordinator(Ending(), folder).run()
    scales = _Scales()
    Coordinator(scales, folder).run(resume=True)
    events = read_journal(folder / "journal.jsonl")
    started = [event for event in events if isinstance(event, StudyStarted)][1]
    assert started.resumed_after == 1
    assert scales.up[1] == pytest.approx(started.study_bytes_up, rel=0.01)
    assert scales.down[1] == pytest.approx(started.study_bytes_down, rel=0.01)
