"""What the coordinator lays down for itself: its address, its ports and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import tomli_w
from pydantic import Field

from ppfl.settings.gateway import GatewayLimits
from ppfl.settings.study import Section, absolute_paths, read_settings


class CoordinatorFile(Section):
    """A coordinator file; relative paths are relative to the folder it lies in."""

    version: Literal[1] = 1
    host: str = Field(description="name or IP address under which the sites reach it")
    port: int = Field(9443, ge=1, le=65535, description="the one port that the sites reach (TLS)")
    listen: str = Field("0.0.0.0", description="address at which that port is opened")  # noqa: S104
    superlink_port: int = Field(
        9444, ge=1, le=65535, description="Flower's SuperLink, on this machine only"
    )
    dashboard_port: int = Field(
        9445, ge=0, le=65535, description="the dashboard, on this machine only; 0: none"
    )
    study: Path = Field(Path("study.toml"), description="a draft until `ppfl coordinator kit`")
    public_key: Path = Field(Path("public.key"), description="the federation's public key")
    start: Path = Field(Path("start.safetensors"), description="the starting parameters")
    run: Path = Field(Path("run"), description="the run's folder: journal, checkpoint, report")
    cards: Path = Field(Path("cards"), description="folder of the sites' cards")
    kits: Path = Field(Path("kits"), description="folder of the kits for the sites")
    ca_certificate: Path = Field(Path("tls/ca.crt"), description="the federation's authority")
    ca_key: Path = Field(Path("tls/ca.key"), description="its key; nothing that runs needs it")
    certificate: Path = Field(Path("tls/server.crt"), description="the coordinator's certificate")
    certificate_key: Path = Field(Path("tls/server.key"), description="the certificate's key")
    journal_key: Path = Field(
        Path("journal.key"), description="private key with which it signs the journal's records"
    )
    gateway: GatewayLimits = Field(
        GatewayLimits(), description="what one peer may ask: see docs/gateway.md"
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The coordinator file at ``path``, its paths made absolute.

        Raises:
            SettingsError: the file is missing, is no TOML, or breaks a rule.
        """
        return absolute_paths(read_settings(path, cls), path.resolve().parent)

    def to_toml(self) -> str:
        """The coordinator file's text."""
        return tomli_w.dumps(self.model_dump(mode="json"))
