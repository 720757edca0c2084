"""The public keys with which the sites of a run countersign, as the coordinator has them."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from ppfl.files import replace_text
from ppfl.settings import Name, Section

JOURNAL_KEY = "journal.key"
"""In a simulation's folder, the private key with which the coordinator signs."""

SITE_KEYS = "site-keys.toml"
"""In every run's folder, the sites' public keys."""


class SiteKeys(Section):
    """The file of them: lines of OpenSSH by the sites' names."""

    keys: dict[Name, str]

    def write(self, path: Path) -> None:
        """Write the file, in place of an older one."""
        replace_text(path, tomli_w.dumps(self.model_dump(mode="json")))
