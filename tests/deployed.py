"""A federation between hospitals up to where each may join, made as its administrators make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordinator.folder import create_folder, write_kits
from ppfl.crypto import PrivateKey
from ppfl.federation.cards import Card
from ppfl.federation.ceremony import Ceremony, hold_ceremony
from ppfl.settings import FederationOptions, ModelOptions, Study
from sites.identity import create_identity
from sites.join import Joined, join

SITES = ("alpha", "beta")


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

    def join(self, site: str, *, kit: Path | None = None, secret: Path | None = None) -> Joined:
        data = self.root / "xrays"
        data.mkdir(exist_ok=True)
        return join(kit or self.kit(site), self.site(site), data=data, passphrase_file=secret)


def draft() -> Study:
    return Study(
        name="tiny",
        classes=("Normal", "Effusion"),
        model=ModelOptions(architecture="shufflenet_v2_x0_5"),
        federation=FederationOptions(sites=SITES),
    )


def deploy(root: Path, key: PrivateKey) -> Deployed:
    deployed = Deployed(root)
    create_folder(deployed.coordinator, draft(), host="127.0.0.1", port=9443, days=30)
    cards: list[Card] = [create_identity(name, deployed.site(name)) for name in SITES]
    hold_ceremony(key, cards, deployed.ceremony)
    write_kits(deployed.coordinator, Ceremony.read(deployed.ceremony), weights=None)
    return deployed
