"""What a run of Flower brings along to a site: it names the installed apps and holds no code."""

from __future__ import annotations

import tomli_w
from flwr.cli.build import build_fab_from_files

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
    content, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(_APP).encode()})
    return content
