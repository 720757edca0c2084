"""A site's kit: all that the coordinator hands to one site, in one file; nothing in it is secret.

The format is specified in docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

import tomli_w
from pydantic import Field

from ppfl.errors import KitError, SettingsError
from ppfl.settings import Name, Section, Sha256, Study, read_settings


class Kit(Section):
    """The texts of the files for one site, and the version of ppfl that made the kit.

    ``sha256`` covers everything else. It shows damage, not malice: who could change a kit could
    change its digest, so sites compare the fingerprints inside by telephone.
    """

    kind: Literal["ppfl kit"] = "ppfl kit"
    version: Literal[3] = 3
    ppfl: str = Field(pattern="^[0-9A-Za-z.+!-]{1,40}$")
    site: Name
    host: str
    port: int = Field(ge=1, le=65535)
    ca_certificate: str
    journal_key: str
    study: str
    public_key: str
    sealed_key: str
    sha256: Sha256 = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The kit in a file.

        Raises:
            KitError: the file is missing, is no kit, or is damaged.
        """
        try:
            kit = read_settings(path, cls)
        except SettingsError as error:
            raise KitError(f"{error}", hint="it is no kit, or damaged: ask for it anew") from None
        if kit.sha256 != kit._digest():
            raise KitError(f"{path}: damaged on its way", hint="ask the coordinator for it anew")
        return kit

    def to_toml(self) -> str:
        """The kit file's text: the same for the same content."""
        table = self.model_dump(mode="json") | {"sha256": self._digest()}
        return tomli_w.dumps(table, multiline_strings=True)

    def _digest(self) -> str:
        table = self.model_dump(mode="json", exclude={"sha256"})
        canonical = json.dumps(table, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def require_encryption(study: Study) -> None:
    """Check that a study between hospitals encrypts.

    Raises:
        SettingsError: it does not.
    """
    if study.encryption.custody == "unsafe_plaintext":
        raise SettingsError(
            f"study {study.name}: custody unsafe_plaintext encrypts nothing, and hospitals would "
            "send their parameters in the clear",
            hint="compare with it in a simulation only; between hospitals use custody shared",
        )
