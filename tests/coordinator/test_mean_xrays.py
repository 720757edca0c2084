"""Mean X-rays over Flower's messages: what is recorded and refused, and what a crash leaves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from numpy.typing import NDArray
from PIL import Image

from coordinator.rounds import Coordinator
from ppfl.errors import QuorumError
from ppfl.federation import read_journal
from ppfl.federation.journal import Alarm, LeftHospital, MeanXRaysReleased, Refused, SiteFailed
from ppfl.federation.xray_sums import XRaySums
from ppfl.report import write_report
from ppfl.settings import SiteFile, Study
from ppfl.xray.pictures import shrink
from simulations.local_grid import LocalGrid
from sites.client_app import app
from sites.messages import SEALED, write_sealed
from sites.totals import Totals
from sites.xrays import XRays
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario

_SIZE = 16
# north trains on two effusions, which is below this floor; all others hold at least five
_OPTIONS = {"release_floor": 5, "mean_xray_size": _SIZE}
Tamper = Callable[[str, Message, Message], Message]
"""What the coordinator gets where a site gave this reply to a request: "query.add_xrays north"."""


class _Grid(LocalGrid):
    """Sites that make mean X-rays and then do not train, so that a run ends in its first round."""

    def __init__(self, tamper: Tamper | None = None) -> None:
        super().__init__(app, sites=len(SITES))
        self.asked: list[str] = []
        self._tamper = tamper

    def _call(self, message: Message) -> Message:
        kind, site = message.metadata.message_type, SITES[message.metadata.dst_node_id - 1]
        self.asked.append(kind)
        if kind == "train":
            return _lost(message)
        reply = super()._call(message)
        return self._tamper(f"{kind} {site}", message, reply) if self._tamper else reply


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("PPFL_RUN", str(folder))
    prepare_once(tiny_scenario("unsafe_plaintext", federation=_OPTIONS), folder)
    return folder


def _run(folder: Path, tamper: Tamper | None = None) -> list[str]:
    """What the sites were asked, before the run ended in its first round."""
    grid = _Grid(tamper)
    with pytest.raises(QuorumError):
        Coordinator(grid, folder).run(resume=True)
    return [kind for kind in grid.asked if "xrays" in kind]


def _lost(message: Message) -> Message:
    return Message(Error(code=3, reason=""), reply_to=message)


def _released(folder: Path) -> list[MeanXRaysReleased]:
    events = read_journal(folder / "journal.jsonl")
    return [event for event in events if isinstance(event, MeanXRaysReleased)]


def _pictures(folder: Path) -> dict[str, NDArray[np.uint8]]:
    (event,) = _released(folder)
    files = {name: base64.b64decode(text) for name, text in event.pictures.items()}
    return {name: np.asarray(Image.open(io.BytesIO(file))) for name, file in files.items()}


def _mean_in_the_clear(folder: Path, name: str, sites: tuple[str, ...]) -> NDArray[np.float64]:
    study, pictures = Study.read(folder / "study.toml"), []
    for site in sites:
        xrays = XRays(SiteFile.read(folder / "sites" / site / "site.toml"), study).images("train")
        for pixels in xrays.images[xrays.labels == study.classes.index(name)]:
            shrunk = shrink(pixels.astype(np.uint16), bits=8, size=_SIZE)
            pictures.append(np.asarray(shrunk, float))
    return np.floor(np.mean(pictures, axis=0) + 0.5)


def test_the_pictures_are_the_means_over_the_sites_with_enough_images(folder: Path) -> None:
    assert _run(folder) == ["query.add_xrays"] * 3 + ["query.release_xrays"] * 3
    pictures = _pictures(folder)
    assert (pictures["Normal"] == _mean_in_the_clear(folder, "Normal", SITES)).all()
    effusion = _mean_in_the_clear(folder, "Effusion", ("east", "west"))
    assert (pictures["Effusion"] == effusion).all()
    left = read_journal(folder / "sites" / "north" / "work" / "journal.jsonl")
    told = [item.what for event in left if isinstance(event, LeftHospital) for item in event.items]
    assert "sealed vector: sums of the X-rays of each class" in told
    assert "mean X-rays of the whole federation" in told
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert all(
        f"data:image/png;base64,{text}" in page for text in _released(folder)[0].pictures.values()
    )


def test_a_class_of_too_few_sites_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPFL_RUN", str(tmp_path / "run"))
    options = _OPTIONS | {"minimum_sites": 3}
    prepare_once(tiny_scenario("unsafe_plaintext", federation=options), tmp_path / "run")
    _run(tmp_path / "run")
    assert set(_pictures(tmp_path / "run")) == {"Normal"}


def test_a_site_that_drops_out_is_not_in_the_mean(folder: Path) -> None:
    def drop(asked: str, request: Message, reply: Message) -> Message:
        return _lost(request) if asked == "query.add_xrays west" else reply

    _run(folder, drop)
    pictures = _pictures(folder)  # east alone holds effusions now
    assert set(pictures) == {"Normal"}
    assert (pictures["Normal"] == _mean_in_the_clear(folder, "Normal", ("east", "north"))).all()


def _telling(mean_xrays: object) -> Tamper:
    """North tells this instead of what it opened."""

    def tamper(asked: str, _: Message, reply: Message) -> Message:
        if asked == "query.release_xrays north":
            record = reply.content.config_records["answer"]
            clear = json.loads(str(record["clear"]))
            record["clear"] = json.dumps(clear | {"mean_xrays": mean_xrays})
        return reply

    return tamper


def test_sites_that_disagree_raise_an_alarm(folder: Path) -> None:
    black = base64.b64encode(bytes(_SIZE**2)).decode()
    _run(folder, _telling({"Normal": black}))
    (event,) = _released(folder)
    assert event.sites == ("east", "west")
    alarms = [e for e in read_journal(folder / "journal.jsonl") if isinstance(e, Alarm)]
    assert [(alarm.code, alarm.sentence) for alarm in alarms] == [
        (
            "mean-xrays-disagree",
            "the sites disagree about the mean X-rays: east, west against north",
        )
    ]
    assert _pictures(folder)["Normal"].any()


@pytest.mark.parametrize(
    "mean_xrays",
    [
        {"Normal": base64.b64encode(bytes(_SIZE)).decode()},
        {"Normal": "no base64"},
        {"Normal": 7},
        {"Smith": base64.b64encode(bytes(_SIZE**2)).decode()},
    ],
    ids=["another size", "no base64", "no text", "no class"],
)
def test_pictures_that_are_none_are_left_out(folder: Path, mean_xrays: object) -> None:
    _run(folder, _telling(mean_xrays))
    (event,) = _released(folder)
    assert event.sites == ("east", "west")
    failed = [e for e in read_journal(folder / "journal.jsonl") if isinstance(e, SiteFailed)]
    assert (failed[0].site, failed[0].code) == ("north", "malformed-message")


def test_sums_of_another_study_spoil_the_total_and_are_noticed(folder: Path) -> None:
    study = Study.read(folder / "study.toml")
    site = SiteFile.read(folder / "sites" / "north" / "site.toml")
    other = XRaySums(study.model_copy(update={"seed": 1}), Totals(site, study).suite)

    def replace(asked: str, _: Message, reply: Message) -> Message:
        if asked == "query.add_xrays north":
            write_sealed(reply.content, SEALED, other.seal([[], []]).to_bytes())
        return reply

    _run(folder, replace)
    assert not _released(folder)
    events = read_journal(folder / "journal.jsonl")
    failed = {(e.site, e.code) for e in events if isinstance(e, SiteFailed) and not e.round}
    assert failed == {(name, "study-mismatch") for name in SITES}


def test_a_run_that_goes_on_makes_them_once(folder: Path) -> None:
    _run(folder)
    assert _run(folder) == []
    assert len(_released(folder)) == 1


def test_a_sum_that_was_added_before_a_crash_is_opened_after_it(folder: Path) -> None:
    def crash(asked: str, _: Message, reply: Message) -> Message:
        if asked == "query.release_xrays north":
            raise KeyboardInterrupt
        return reply

    with pytest.raises(KeyboardInterrupt):
        Coordinator(_Grid(crash), folder).run()
    assert not _released(folder)
    assert _run(folder) == ["query.release_xrays"] * 3
    assert _released(folder)[0].sites == SITES


def test_sites_open_no_second_sum(folder: Path) -> None:
    """One with a site and one without would show that site's X-rays."""
    _run(folder)
    for path in (folder / "journal.jsonl", folder / "xrays.bin"):
        path.unlink()
    _run(folder, lambda asked, request, reply: _lost(request) if "north" in asked else reply)
    assert not _released(folder)
    for name in ("east", "west"):
        journal = read_journal(folder / "sites" / name / "work" / "journal.jsonl")
        refused = [event for event in journal if isinstance(event, Refused)]
        assert [event.code for event in refused] == ["stale-round"]
