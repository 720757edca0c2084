"""What the README's table promises about the coordinator, tried out on a whole encrypted study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from torch import nn

import sites.hospital
from coordinator.rounds import Coordinator
from ppfl.codec import WEIGHT_UNIT, PackedSuite, Quantizer, ranges_of
from ppfl.crypto import PrivateKey, create_engine, read_private_key
from ppfl.errors import InvalidKeyError
from ppfl.learning.files import load_model
from ppfl.learning.images import ImageSet
from ppfl.learning.models import get_parameters
from ppfl.learning.sources import read_records
from ppfl.settings import SiteFile
from simulations.local_grid import LocalGrid
from sites.client_app import app
from sites.messages import SEALED, read_sealed
from sites.requests import Parameters
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    scenario = tiny_scenario("shared", training={"rounds": 1}, federation={"release_floor": 1000})
    prepare_once(scenario, folder)
    monkeypatch.setenv("PPFL_RUN", str(folder))
    grid = ListeningGrid()
    Coordinator(grid, folder).run()

    held = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {path.name for path in held} >= {"journal.jsonl", "checkpoint.bin", "public.key"}
    canaries: dict[str, bytes] = {}
    for name in SITES:
        site = SiteFile.read(folder / "sites" / name / "site.toml")
        assert site.key is not None
        key = read_private_key(site.key, passphrase=site.passphrase())
        canaries |= {
            f"{name}'s passphrase": site.passphrase().encode(),
            f"{name}'s P": f"{key.P:x}".encode(),
            f"{name}'s p": f"{key.p:x}".encode(),
            f"{name}'s folder": str(site.data).encode(),
            f"{name}'s model": _digits(load_model(site.work / "model.safetensors")[0]),
        }
        for record in read_records(site.data):
            canaries[f"{name}'s {record.path.name}"] = record.path.stem.encode()
    for what, canary in canaries.items():
        for path, data in held.items():
            assert canary not in data, f"{what} is in {path.name}"
        for data in grid.heard + grid.sealed:
            assert canary not in data, f"{what} was sent"
    # counts of so few images are never released
    assert b"accuracy" not in held[folder / "journal.jsonl"]


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
