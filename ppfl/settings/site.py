"""What one hospital lays down for itself: the only place that paths come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

import tomli_w
from pydantic import Field, model_validator

from ppfl.errors import SettingsError
from ppfl.settings.study import Name, Section, Sha256, absolute_paths, read_settings

PASSPHRASE_VARIABLE = "PPFL_PASSPHRASE"  # noqa: S105 - the variable's name


class Connection(Section):
    """Where the coordinator is, and how this site proves that it is this site."""

    host: str = Field(description="the coordinator's name or IP address")
    port: int = Field(ge=1, le=65535, description="the coordinator's port")
    ca_certificate: Path = Field(
        Path("ca.crt"), description="the only authority whose certificates this site trusts"
    )
    node_key: Path = Field(
        Path("supernode.key"), description="private key by which Flower knows this site's SuperNode"
    )
    node_port: int = Field(
        9501, ge=1, le=65535, description="the SuperNode's own port, on this machine only"
    )

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SiteFile(Section):
    """A site file; relative paths are relative to the folder it lies in."""

    version: Literal[1] = 1
    name: Name
    study: Path = Field(Path("study.toml"), description="this site's own copy of the study")
    data: Path = Field(description="a folder of X-rays, or a table (CSV) that lists them")
    key: Path | None = Field(None, description="private key file; none for unsafe_plaintext")
    passphrase_file: Path | None = Field(
        None, description=f"file with the key's passphrase; without it, ${PASSPHRASE_VARIABLE}"
    )
    work: Path = Field(Path("work"), description="folder for the cache, the journal and the model")
    engine: Literal["auto", "native", "gmp", "reference"] = "auto"
    threads: int = Field(0, ge=0, le=1024, description="cores to use; 0: all of them")

    approved_study: Sha256 = Field(
        "", description="fingerprint of the study the hospital agreed to; it serves no other"
    )
    approved_code: Sha256 = Field(
        "", description="digest of the installed code the hospital agreed to; it runs no other"
    )
    signing_key: Path | None = Field(
        None, description="private key with which it countersigns the coordinator's records"
    )
    journal_key: str = Field(
        "", description="the coordinator's public key, by which it knows those records (OpenSSH)"
    )
    kit_version: str = Field(
        "", description="version of ppfl with which the kit was made, for `ppfl doctor` to compare"
    )
    coordinator: Connection | None = Field(None, description="a table; none in a simulation")

    @model_validator(mode="after")
    def _passphrase_has_a_key(self) -> Self:
        if self.passphrase_file and not self.key:
            raise ValueError("a passphrase_file without a key")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """The site file at ``path``, its paths made absolute.

        Raises:
            SettingsError: the file is missing, is no TOML, or breaks a rule.
        """
        return absolute_paths(read_settings(path, cls), path.resolve().parent)

    def to_toml(self) -> str:
        """The site file's text."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def connection(self) -> Connection:
        """Where the coordinator is, and how this site reaches it.

        Raises:
            SettingsError: the file names no coordinator.
        """
        if self.coordinator is None:
            raise SettingsError(
                f"site {self.name} names no coordinator", hint="join with a kit: ppfl site join"
            )
        return self.coordinator

    def passphrase(self) -> str:
        """The private key's passphrase; see :func:`read_passphrase`."""
        return read_passphrase(self.passphrase_file, whose=f"site {self.name}")


def read_passphrase(file: Path | None, *, whose: str) -> str:
    """A passphrase from a file, without the line end that editors add, or from the environment.

    Raises:
        SettingsError: the file cannot be read, or there is neither a file nor the variable.
    """
    if file is None:
        if value := os.environ.get(PASSPHRASE_VARIABLE):
            return value
        raise SettingsError(f"{whose}: no passphrase_file, and ${PASSPHRASE_VARIABLE} is not set")
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{file}: cannot be read") from None
