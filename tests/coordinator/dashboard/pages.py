"""The dashboard as tests reach it: in this process, or over a real connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from coordinator.dashboard.access import Access
from coordinator.dashboard.app import create_app
from coordinator.dashboard.runs import Runs
from coordinator.dashboard.watch import Watch
from tests.deployed import free_port

TOKEN = "t0ken-for-tests-" * 4


class Client:
    """Asks the dashboard over a folder in this process; it has looked at the journals once."""

    def __init__(self, folder: Path, *, secure: bool = False) -> None:
        runs = Runs(folder)
        runs.look()
        app = create_app(Watch(runs), Access(TOKEN), hosts=frozenset({"localhost"}), secure=secure)
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        self._runner = asyncio.Runner()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._client.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **options))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@contextmanager
def serving(folder: Path, *, port: int = 0) -> Iterator[str]:
    """The dashboard over a folder, on a port of the loopback interface; its address."""
    port = port or free_port()
    app = create_app(Watch(Runs(folder)), Access(TOKEN), hosts=frozenset({"127.0.0.1"}))
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=0,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def served(folder: Path) -> dict[str, bytes]:
    """All that the dashboard over one run's folder tells someone who has logged in, by its path."""
    run, found = folder.name, {}
    with serving(folder) as address, httpx.Client(base_url=address, timeout=60) as client:
        client.post("/login", data={"token": TOKEN})
        paths = [f"/runs/{run}", f"/log/{run}", f"/report/{run}", "/metrics"]
        for path in paths:
            answer = client.get(path)
            assert answer.status_code == 200, path
            found[path] = answer.content
        for path in (f"/events/{run}", "/events"):
            with client.stream("GET", path) as answer:
                found[path] = next(line for line in answer.iter_lines() if "data:" in line).encode()
    return found
