"""What a run of Flower brings along to a site: it names the installed apps and holds no code."""

from __future__ import annotations

from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_files

_FILE = "pyproject.toml"
_APP = {
    "project": {"name": "ppfl", "version": "1.0.0", "dependencies": ["flwr>=1.41"]},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "ppfl",
                "components": {
                    "serverapp": "coordinator.server_app:app",
                    "clientapp": "sites.client_app:app",
                },
            }
        }
    },
}


def app_bundle() -> bytes:
    """The only FAB that a site answers to, the same bytes at the coordinator and at every site.

    A site's pin of its installed code covers this module, and so the bundle. It is built without
    looking at any folder: nothing that lies on the coordinator's disk can come along.
    """
    content, _ = build_fab_from_files({_FILE: tomli_w.dumps(_APP).encode()})
    return content


def write_app(folder: Path) -> None:
    """Make a folder from which ``flwr run`` builds that FAB; it need not exist.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(tomli_w.dumps(_APP), encoding="utf-8")
