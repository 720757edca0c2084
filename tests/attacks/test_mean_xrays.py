"""What must not come out when the sites add up their X-rays for the federation's mean."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from coordinator.rounds import Coordinator
from ppfl.errors import InvalidKeyError, QuorumError
from ppfl.federation import read_journal
from ppfl.federation.journal import MeanXRaysReleased
from ppfl.federation.xray_sums import ClassSum, XRaySums
from ppfl.settings import SiteFile, Study
from ppfl.xray.pictures import shrink, to_png
from simulations.local_grid import LocalGrid
from sites.client_app import app
from sites.messages import SEALED, read_sealed
from sites.requests import Request
from sites.totals import Totals
from sites.xrays import XRays
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario


class _Listening(LocalGrid):
    """Keeps what the sites send about their X-rays; they do not train."""

    def __init__(self) -> None:
        super().__init__(app, sites=len(SITES))
        self.heard: list[bytes] = []
        self.sealed: list[bytes] = []

    def _call(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            raise KeyboardInterrupt
        reply = super()._call(message)
        texts = reply.content.config_records.values()
        self.heard.extend(str(dict(record)).encode() for record in texts)
        if message.metadata.message_type == "query.add_xrays":
            self.sealed.append(read_sealed(reply.content, SEALED))
        return reply


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Coordinator, _Listening]:
    folder = tmp_path_factory.mktemp("attacks") / "run"
    federation = {"release_floor": 5, "mean_xray_size": 16}
    prepare_once(tiny_scenario("shared", federation=federation), folder)
    grid = _Listening()
    coordinator = Coordinator(grid, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPFL_RUN", str(folder))
        with pytest.raises(KeyboardInterrupt):
            coordinator.run()
    return folder, coordinator, grid


def _totals(folder: Path, name: str) -> tuple[Totals, Study, SiteFile]:
    site = SiteFile.read(folder / "sites" / name / "site.toml")
    study = Study.read(site.study)
    return Totals(site, study), study, site


@pytest.mark.slow
def test_no_sum_of_a_single_site_is_in_what_the_coordinator_holds_or_hears(
    run: tuple[Path, Coordinator, _Listening],
) -> None:
    folder, coordinator, grid = run
    held = [path.read_bytes() for path in folder.iterdir() if path.is_file()]
    events = read_journal(folder / "journal.jsonl")
    (released,) = (event for event in events if isinstance(event, MeanXRaysReleased))
    assert set(released.pictures) == {"Normal", "Effusion"}
    assert len(grid.sealed) == len(SITES)
    assert len({len(wire) for wire in grid.sealed}) == 1
    for name in SITES:
        _, study, site = _totals(folder, name)
        xrays = XRays(site, study).images("train")
        for c in range(len(study.classes)):
            pictures = [
                np.asarray(shrink(pixels.astype(np.uint16), bits=8, size=16), np.int64)
                for pixels in xrays.images[xrays.labels == c]
            ]
            pixels = np.sum(pictures, axis=0)
            mean = ClassSum(1, len(pictures), pixels).mean()
            canaries = [pixels.astype(dtype).tobytes() for dtype in ("<i4", "<i8")]
            canaries += [mean.tobytes(), base64.b64encode(mean.tobytes())]
            canaries.append(base64.b64encode(to_png(mean)))
            for canary in canaries:
                assert not any(canary in data for data in [*held, *grid.heard, *grid.sealed]), name
    sums = XRaySums(coordinator.study, coordinator._suite)
    for wire in grid.sealed:
        vector = sums.suite.read(wire, values=sums.values)
        assert vector.summands == 1  # not as many as X-rays
        with pytest.raises(InvalidKeyError):
            sums.open(vector)


@pytest.mark.slow
def test_a_site_opens_no_sum_of_another_site_and_none_while_it_adds(
    run: tuple[Path, Coordinator, _Listening],
) -> None:
    folder, _, grid = run
    totals, study, _ = _totals(folder, "north")
    # the sites have opened a sum; without the note of it, the sum itself must be what refuses
    for note in (folder / "sites" / "north" / "work").glob("xrays-*"):
        note.unlink()
    for wire in grid.sealed:
        with pytest.raises(QuorumError, match="a total of 1 sites"):
            totals.mean_xrays(Request(study.fingerprint(), "run", 0, total=wire))
    adding = XRaySums(study, totals.public_suite)
    with pytest.raises(InvalidKeyError):
        adding.open(adding.suite.read(grid.sealed[0], values=adding.values))
