"""What the README's table promises about the coordinator, tried out on a whole encrypted study."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from torch import nn
from typer.testing import CliRunner

import sites.hospital
from coordinator.rounds import Coordinator
from ppfl.codec import WEIGHT_UNIT, PackedSuite, Quantizer, ranges_of
from ppfl.crypto import PrivateKey, create_engine
from ppfl.errors import InvalidKeyError
from ppfl.federation import read_journal
from ppfl.federation.journal import (
    ImagesReleased,
    MetricsReleased,
    RoundCountersigned,
    StudyClosed,
)
from ppfl.learning.files import load_model
from ppfl.learning.images import ImageSet, pixel_sums
from ppfl.learning.models import get_parameters
from ppfl.report import write_report
from ppfl.settings import SiteFile, Study
from simulations.local_grid import LocalGrid
from simulations.main import _app
from simulations.scenario import Scenario
from sites.client_app import app
from sites.messages import SEALED, read_sealed
from sites.requests import Parameters
from sites.xrays import XRays
from tests.attacks.canaries import Canary, find, find_counts
from tests.attacks.holdings import held_in, site_secrets
from tests.coordinator.dashboard.pages import served
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario


class ListeningGrid(LocalGrid):
    """Keeps all bytes that the sites send."""

    def __init__(self) -> None:
        super().__init__(app, sites=len(SITES))
        self.heard: list[bytes] = []
        self.sealed: list[bytes] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            self.sealed.append(read_sealed(reply.content, SEALED))
            texts = reply.content.config_records.values()
            self.heard.extend(str(dict(record)).encode() for record in texts)
        return replies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "floor"), [(1, 1000), (2, 1)], ids=["nothing released", "all released"]
)
def test_nothing_of_a_site_is_in_what_the_coordinator_holds_or_hears(
    rounds: int,
    floor: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "run"
    federation = {"release_floor": floor, "keep_ciphertexts": True}
    training = {"rounds": rounds}
    scenario = tiny_scenario("shared", training=training, federation=federation)
    prepare_once(_unequal(scenario), folder)
    broken = _break_one_image(folder / "sites" / "west")
    # what `ppfl coordinator run` puts in its run's folder, and no more
    coordinator = tmp_path / "coordinator"
    coordinator.mkdir()
    for name in ("study.toml", "public.key", "start.safetensors", "site-keys.toml", "journal.key"):
        shutil.copyfile(folder / name, coordinator / name)
    (coordinator / "journal.key").chmod(0o600)
    trained: list[Parameters] = []
    train = sites.hospital.train_locally

    def watch(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = train(model, *arguments, **options)
        trained.append(get_parameters(model))
        return result

    monkeypatch.setattr(sites.hospital, "train_locally", watch)
    monkeypatch.setenv("PPFL_RUN", str(folder))
    grid = ListeningGrid()
    with caplog.at_level(logging.DEBUG):
        Coordinator(grid, coordinator).run()
        write_report(coordinator)
        shown = served(coordinator)
    printed = [
        _print("audit", str(coordinator), "--json"),
        _print("export", str(coordinator), "--out", str(coordinator / "tables")),
    ]

    held = held_in(coordinator)
    del held["start.safetensors"]  # public, and the same for all
    wanted = {"journal.jsonl", "checkpoint.bin", "report.html", "ciphertexts/round-0001/east.bin"}
    assert set(held) >= wanted | {"tables/metrics.csv", "tables/classes.csv", "tables/sites.csv"}
    assert "ciphertexts/round-0001/west.bin" not in held
    held |= {f"what was heard, {n}": data for n, data in enumerate(grid.heard + grid.sealed)}
    held |= {f"the dashboard, {path}": data for path, data in shown.items()}
    held["what was printed"] = "".join(printed).encode()
    # a site's log lies at the site, which shares the process here; matplotlib tells of its fonts
    others = ("ppfl.site", "matplotlib", "PIL")
    logged = [record for record in caplog.records if not record.name.startswith(others)]
    held["the log"] = "\n".join(record.getMessage() for record in logged).encode()
    assert str(broken) in caplog.text
    canaries: dict[str, Canary] = {"west's broken image": str(broken), "its name": broken.name}
    counts = {}
    for name in SITES:
        site = SiteFile.read(folder / "sites" / name / "site.toml")
        canaries |= {f"{name}'s {what}": value for what, value in site_secrets(site).items()}
        counts |= {f"{name}'s images of {label}": n for label, n in _COUNTS[name].items()}
        if name != "west":
            images = XRays(site, Study.read(site.study)).images("train")
            counts[f"{name}'s images to train on"] = len(images.labels)
            for what, number in zip(("sum", "squares"), pixel_sums(images)[1:], strict=True):
                canaries[f"{name}'s {what} of pixels"] = number
    assert len(trained) == 2 * rounds
    for ended in trained:
        for name, array in ended.items():
            if array.size >= 1000:
                canaries[f"a trained {name}"] = array
    assert find(canaries, held) == []
    # and were one of them there, it would be found
    assert find(canaries, {"spilt": broken.read_bytes() + str(broken).encode()})

    events = read_journal(coordinator / "journal.jsonl")
    released = [e for e in events if isinstance(e, MetricsReleased | ImagesReleased)]
    countersigned = [e for e in events if isinstance(e, RoundCountersigned)]
    assert isinstance(events[-1], StudyClosed)
    assert len(countersigned) == 2 * rounds
    if floor == 1000:  # counts of so few images are never released
        assert b"accuracy" not in held["journal.jsonl"]
        assert not any(event.counts for event in released if isinstance(event, MetricsReleased))
    else:
        _check_that_released_counts_are_of_all(released, folder)
    together = set(_numbers([event.model_dump(include=_FIGURES) for event in released]))
    counts = {what: count for what, count in counts.items() if count not in together}
    assert len(counts) >= 6  # not more than two of them happen to be figures of all sites
    assert find_counts(counts, {where: _counted(data) for where, data in held.items()}) == []


_FIGURES = {"metrics": True, "images": True, "counts": {"confusion"}}


def _numbers(value: object) -> Iterator[int]:
    """All whole numbers in what was released, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int):
        yield value


def _counted(content: bytes) -> bytes:
    """What is held, without what has small numbers of its own: lines, pictures, released bins."""
    for without in (
        rb'"event":"metrics_released".*',
        rb'"(number|last|lines|kept)":\d+',
        rb"ppfl_journal_lines_total.*",
        rb"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT",  # HTTP's date, in the log of the test's client
        rb"<svg.*?</svg>",
        rb"base64,[A-Za-z0-9+/=]+",
    ):
        flags = re.DOTALL if b"svg" in without else 0
        content = re.sub(without, b"", content, flags=flags)
    return re.sub(rb"(?<=\d)\.0$", b"", content, flags=re.MULTILINE)  # as Prometheus has counts


def _check_that_released_counts_are_of_all(
    released: list[MetricsReleased | ImagesReleased], folder: Path
) -> None:
    """Each figure is the two sites' together, and so none of them is one's."""
    of_split: Counter[str] = Counter()
    of_class: Counter[str] = Counter()
    for name in ("east", "north"):
        site = SiteFile.read(folder / "sites" / name / "site.toml")
        study = Study.read(site.study)
        for split in ("train", "validation", "test"):
            labels = XRays(site, study).images(split).labels
            of_split[split] += len(labels)
            if split == "train":
                of_class.update(study.classes[label] for label in labels)
    assert {type(event) for event in released} == {MetricsReleased, ImagesReleased}
    for event in released:
        if isinstance(event, ImagesReleased):
            assert event.images == of_class
        else:
            assert event.metrics["images"] == of_split[event.split]
            if event.counts:
                assert np.sum(event.counts["confusion"]) == of_split[event.split]
    assert any(event.counts for event in released if isinstance(event, MetricsReleased))


def _print(*arguments: str) -> str:
    result = CliRunner().invoke(_app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result.stdout + result.stderr


_COUNTS = {
    "east": {"Normal": 29, "Effusion": 37},
    "north": {"Normal": 41, "Effusion": 43},
    "west": {"Normal": 47, "Effusion": 53},
}
"""Numbers that nothing else in a study has."""


def _unequal(scenario: Scenario) -> Scenario:
    hospitals = [
        hospital.model_copy(update={"counts": _COUNTS[hospital.name]})
        for hospital in scenario.simulation.phantoms
    ]
    simulation = scenario.simulation.model_copy(update={"phantoms": tuple(hospitals)})
    return scenario.model_copy(update={"simulation": simulation})


def _break_one_image(place: Path) -> Path:
    """A site that fails, and whose own log says on which patient's image."""
    picture = sorted((place / "xrays").rglob("*.png"))[0]
    picture.write_bytes(b"no image")
    return picture


def test_local_layers_are_in_no_update_though_nothing_is_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    model = {"local_layers": ["conv1"]}
    study = prepare_once(
        tiny_scenario("unsafe_plaintext", model=model, training={"rounds": 1}), folder
    )
    trained: list[tuple[Parameters, int]] = []
    train = sites.hospital.train_locally

    def watch(model: nn.Module, data: ImageSet, *arguments: Any, **options: Any) -> Any:
        result = train(model, data, *arguments, **options)
        trained.append((get_parameters(model), len(data.labels)))
        return result

    monkeypatch.setattr(sites.hospital, "train_locally", watch)
    monkeypatch.setenv("PPFL_RUN", str(folder))
    grid = ListeningGrid()
    Coordinator(grid, folder).run()

    start, _ = load_model(folder / "start.safetensors")
    images = sum(count for _, count in trained)
    updates = grid.sealed[len(SITES) : 2 * len(SITES)]
    for (ended, count), update in zip(trained, updates, strict=True):
        for name in ("conv1.0.weight", "conv5.0.weight"):
            quantizer = Quantizer(
                {name: start[name].shape},
                ranges_of({name: start[name]}),
                study.encryption.value_bits,
            )
            sent = quantizer.quantize(
                {name: ended[name]}, weight=round(count / images / WEIGHT_UNIT)
            )
            # as the plaintext suite lays integers down; the shared layer shows that this is how
            assert (sent.values.astype("<u4").tobytes() in update) is (name == "conv5.0.weight")
            digits = _digits({name: ended[name]})
            assert not any(digits in data for data in grid.heard + grid.sealed)
            assert all(
                digits not in path.read_bytes() for path in folder.iterdir() if path.is_file()
            )


def _digits(parameters: Parameters) -> bytes:
    """Sixteen trained numbers as they lie in memory."""
    largest = max(parameters.values(), key=lambda array: array.size)
    return largest.reshape(-1)[:16].astype("<f4").tobytes()


def test_the_same_values_never_look_the_same(unsafe_key: PrivateKey) -> None:
    engine = create_engine(unsafe_key.public, unsafe_key)
    suite = PackedSuite(engine, value_bits=16, headroom_bits=2)
    values = np.zeros(1000, np.int64)
    width = engine.ciphertext_bytes
    parts = [suite.seal(values).parts[0] for _ in range(20)]
    seen = {part[i : i + width] for part in parts for i in range(0, len(part), width)}
    assert len(seen) == 20 * len(parts[0]) // width


def test_whoever_has_only_the_public_key_cannot_open(unsafe_key: PrivateKey) -> None:
    suite = PackedSuite(create_engine(unsafe_key.public), value_bits=16, headroom_bits=2)
    with pytest.raises(InvalidKeyError, match="only a holder of the private key"):
        suite.open(suite.seal(np.arange(10)))
