"""A federation between hospitals up to where each may join, made as its administrators make it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from PIL import Image

from coordinator.folder import create_folder, write_kits
from ppfl.crypto import PrivateKey
from ppfl.federation.cards import Card
from ppfl.federation.ceremony import Ceremony, hold_ceremony
from ppfl.settings import FederationOptions, ModelOptions, SiteFile, Study, read_settings
from sites.identity import create_identity
from sites.join import Joined, join
from tests.coordinator.gateway_in_threads import Site, gateway

SITES = ("alpha", "beta")
_PORTS = 20_000, 32_768  # Linux gives connections the ports from 32768 on


@dataclass(frozen=True, slots=True)
class Deployed:
    """Where its files lie; a site's folder has the site's name."""

    root: Path

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def ceremony(self) -> Path:
        return self.root / "ceremony"

    def kit(self, site: str) -> Path:
        return self.coordinator / "kits" / f"{site}.kit"

    def site(self, site: str) -> Path:
        return self.root / site

    def join(
        self,
        site: str,
        *,
        kit: Path | None = None,
        secret: Path | None = None,
        data: Path | None = None,
    ) -> Joined:
        data = data or self.root / "xrays"
        data.mkdir(exist_ok=True)
        return join(kit or self.kit(site), self.site(site), data=data, passphrase_file=secret)


def draft() -> Study:
    return Study(
        name="tiny",
        classes=("Normal", "Effusion"),
        model=ModelOptions(architecture="shufflenet_v2_x0_5"),
        federation=FederationOptions(sites=SITES),
    )


def deploy(root: Path, key: PrivateKey, study: Study | None = None) -> Deployed:
    deployed, study = Deployed(root), study or draft()
    create_folder(deployed.coordinator, study, host="127.0.0.1", port=9443, days=30)
    sites = study.federation.sites
    cards: list[Card] = [create_identity(name, deployed.site(name)) for name in sites]
    hold_ceremony(key, cards, deployed.ceremony)
    write_kits(deployed.coordinator, Ceremony.read(deployed.ceremony), weights=None)
    return deployed


@contextmanager
def answering(deployed: Deployed, name: str) -> Iterator[Site]:
    """A site joins, with X-rays and a free port, and a gateway that knows it answers meanwhile."""
    for label in ("Normal", "Effusion"):
        (deployed.root / "xrays" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (80, 80), np.uint8)
            picture = Image.fromarray(pixels + (label == "Normal"))
            picture.save(deployed.root / "xrays" / label / f"Doe-{number}.png")
    deployed.join(name)
    key = load_ssh_private_key((deployed.site(name) / "supernode.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with gateway(deployed.coordinator / "tls", key=key) as running:
        running.link.answer = [b""]
        connect(deployed.site(name), port=running.port, node_port=free_port())
        yield running


def connect(folder: Path, *, threads: int = 0, **changes: object) -> None:
    """Change the table `[coordinator]` of a site file, and how many cores the site uses."""
    path = folder / "site.toml"
    site = read_settings(path, SiteFile)  # paths as they stand: the folder may be copied
    assert site.coordinator is not None
    connection = site.coordinator.model_copy(update=changes)
    changed = site.model_copy(update={"coordinator": connection, "threads": threads})
    path.write_text(changed.to_toml())


def free_port() -> int:
    """A port of the loopback interface on which nobody listens.

    It is none of those that the kernel gives to connections: one of these could take it before
    the program that it is meant for listens there.
    """
    while True:
        port = _PORTS[0] + secrets.randbelow(_PORTS[1] - _PORTS[0])
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
