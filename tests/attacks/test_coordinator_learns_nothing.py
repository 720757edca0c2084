"""What the README's table promises about the coordinator, tried out on a whole encrypted study."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
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
from ppfl.crypto import PrivateKey, create_engine, read_private_key
from ppfl.errors import InvalidKeyError
from ppfl.learning.files import load_model
from ppfl.learning.images import ImageSet, pixel_sums
from ppfl.learning.models import get_parameters
from ppfl.learning.sources import read_records
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
def test_nothing_of_a_site_is_in_what_the_coordinator_holds_or_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    federation = {"release_floor": 1000, "keep_ciphertexts": True}
    scenario = tiny_scenario("shared", training={"rounds": 1}, federation=federation)
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
    result = CliRunner().invoke(_app, ["audit", str(coordinator), "--json"])
    assert result.exit_code == 0, result.stderr

    held = {
        str(path.relative_to(coordinator)): path.read_bytes()
        for path in coordinator.rglob("*")
        if path.is_file() and path.name != "start.safetensors"  # public, and the same for all
    }
    wanted = {"journal.jsonl", "checkpoint.bin", "report.html", "ciphertexts/round-0001/east.bin"}
    assert set(held) >= wanted
    assert "ciphertexts/round-0001/west.bin" not in held
    held |= {f"what was heard, {n}": data for n, data in enumerate(grid.heard + grid.sealed)}
    held["what was printed"] = result.stdout.encode()
    # a site's log lies at the site, which shares the process here; matplotlib tells of its fonts
    others = ("ppfl.site", "matplotlib", "PIL")
    logged = [record for record in caplog.records if not record.name.startswith(others)]
    held["the log"] = "\n".join(record.getMessage() for record in logged).encode()
    assert str(broken) in caplog.text
    canaries = {"west's broken image": str(broken), "its name": broken.name}
    counts = {}
    for name in SITES:
        site = SiteFile.read(folder / "sites" / name / "site.toml")
        canaries |= {f"{name}'s {what}": value for what, value in _secrets(site).items()}
        counts |= {f"{name}'s images of {label}": n for label, n in _COUNTS[name].items()}
        if name != "west":
            images = XRays(site, Study.read(site.study)).images("train")
            counts[f"{name}'s images to train on"] = len(images.labels)
            for what, number in zip(("sum", "squares"), pixel_sums(images)[1:], strict=True):
                canaries[f"{name}'s {what} of pixels"] = number
    assert len(trained) == 2
    for ended in trained:
        for name, array in ended.items():
            if array.size >= 1000:
                canaries[f"a trained {name}"] = array
    assert find(canaries, held) == []
    del held["report.html"]  # its pictures are full of small numbers
    assert find_counts(counts, held) == []
    # counts of so few images are never released
    assert b"accuracy" not in held["journal.jsonl"]
    # and were one of them there, it would be found
    assert find(canaries, {"spilt": broken.read_bytes() + str(broken).encode()})


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


def _secrets(site: SiteFile) -> dict[str, Canary]:
    assert site.key is not None
    assert site.signing_key is not None
    key = read_private_key(site.key, passphrase=site.passphrase())
    signing = "".join(site.signing_key.read_text().splitlines()[1:-1])
    found: dict[str, Canary] = {
        "passphrase": site.passphrase(),
        "P": key.P,
        "Q": key.Q,
        "p": key.p,
        "q": key.q,
        "data": str(site.data),
        "key file": str(site.key),
        "work folder": str(site.work),
        "signing key": signing[-100:],
    }
    if (site.work / "model.safetensors").exists():
        shared = load_model(site.work / "model.safetensors")[0]
        found["model"] = max(shared.values(), key=lambda array: array.size)
    for record in read_records(site.data):
        found |= {
            f"file {record.path.stem}": record.path.stem,
            f"patient {record.group}": record.group,
        }
    return found


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
