"""Flower's own processes behind the gateway, started as the coordinator and a site start them."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from coordinator.gateway import FLEET_ROUTES
from tests.coordinator.certificates import openssh_line, write_certificates

_PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "echo"
version = "0.0.1"
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "ppfl"
[tool.flwr.app.components]
serverapp = "echo_app:server"
clientapp = "echo_app:client"
"""
_APP = """
import os, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from ppfl.federation import Journal
from ppfl.federation.journal import StudyClosed

server, client = ServerApp(), ClientApp()

def vector(data):
    return ArrayRecord({"v": Array(dtype="uint8", shape=(len(data),), stype="test.v1", data=data)})

@server.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    sent = os.urandom(12_000_000)
    message = Message(RecordDict({"v": vector(sent)}), dst_node_id=nodes[0], message_type="train")
    waiting = list(grid.push_messages([message]))
    while not (replies := list(grid.pull_messages(waiting))):
        time.sleep(0.2)
    assert replies[0].content["v"]["v"].data == sent[::-1]
    journal = Journal(Path(os.environ["PPFL_RUN"]) / "journal.jsonl")
    journal.write(StudyClosed(rounds=1, sites=("a",), model_sha256="0" * 64, seconds=1.0))

@client.train()
def train(message, context):
    assert context.node_config["site-file"].endswith("site.toml")
    content = RecordDict({"v": vector(message.content["v"]["v"].data[::-1])})
    return Message(content, reply_to=message)
"""
_COORDINATOR = """
import json, logging, sys
from pathlib import Path
from coordinator.serve import CoordinatorPlace, serve_coordinator
logging.basicConfig(level=logging.INFO)
told = json.loads(sys.argv[1])
folder = Path(told["folder"])
serve_coordinator(CoordinatorPlace(
    folder=folder / "coordinator", run=folder / "run", app=folder / "app", listen="127.0.0.1",
    port=told["port"], superlink_port=told["superlink_port"], certificate=folder / "server.crt",
    certificate_key=folder / "server.key", authority=folder / "ca.crt", sites=told["sites"],
))
"""
_SITE = """
import json, logging, sys
from pathlib import Path
from sites.serve import serve_site
logging.basicConfig(level=logging.INFO)
told = json.loads(sys.argv[1])
folder = Path(told["folder"])
serve_site(
    site_file=folder / "a site" / "site.toml", superlink=f"127.0.0.1:{told['port']}",
    authority=folder / "ca.crt", node_key=folder / "node.key", node_port=told["node_port"],
    folder=folder / "site",
)
"""


_ROUTES = {path for _, path in PROTOBUF_REQUEST_TYPES} | {
    "/docs",
    "/openapi.json",
    "/v1/runtime/responses",
}


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """A folder with certificates, a key and an app that echoes, and free ports."""
    write_certificates(tmp_path)
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    (tmp_path / "node.key").write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(_PYPROJECT)
    (tmp_path / "app" / "echo_app.py").write_text(_APP)
    (tmp_path / "run").mkdir()
    ports = dict(zip(("port", "superlink_port", "node_port"), _free_ports(3), strict=True))
    return {"folder": str(tmp_path), "sites": {"a": openssh_line(key)}} | ports


@pytest.mark.slow
def test_a_site_takes_part_through_the_gateway_and_a_stranger_does_not(
    told: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "coordinator" / "superlink.log"
    processes = [_start(_COORDINATOR, told)]
    try:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        address = f"https://127.0.0.1:{told['port']}"
        with httpx.Client(base_url=address, verify=trusted, trust_env=False) as client:
            _until(lambda: client.get("/health").status_code == 200)
            before = log.read_text()
            assert _ask_everything(client, {}) == dict.fromkeys(_ROUTES, 404) | dict.fromkeys(
                FLEET_ROUTES, 401
            )
            assert '" 40' not in log.read_text().removeprefix(before)  # nothing came so far
            signed = _signature(tmp_path / "node.key")
            answers = _ask_everything(client, signed)
            assert {path for path, status in answers.items() if status != 404} == FLEET_ROUTES
            processes.append(_start(_SITE, told))
            asked = log.read_text().removeprefix(before)
            # an empty request names no node: SuperLink itself refuses it
            assert set(re.findall(r'"POST (\S+) HTTP/1.1" 401', asked)) == FLEET_ROUTES
        coordinator, site = processes
        assert _listening(coordinator) == {told["port"], told["superlink_port"]}
        assert coordinator.wait(timeout=90) == 0
        children = psutil.Process(site.pid).children(recursive=True)
        assert len(children) >= 3
        site.kill()
        _until(lambda: not any(child.is_running() for child in children))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    secret = tmp_path / "coordinator" / "superexec.secret"
    assert secret.stat().st_mode & 0o777 == 0o600


def _start(code: str, told: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(told)])


def _ask_everything(client: httpx.Client, headers: dict[str, str]) -> dict[str, int]:
    """What an empty request gets on every route that SuperLink has."""
    kind = {"content-type": PROTOBUF_MEDIA_TYPE}
    return {path: client.post(path, headers=kind | headers).status_code for path in _ROUTES}


def _signature(path: Path) -> dict[str, str]:
    """What Flower's own SuperNode adds to a request."""
    key = serialization.load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = httpx.Request("POST", "https://localhost")
    context = ProtobufRequestContext("", ActivateNodeRequest(), request)
    signing = NodeAuthHttpInterceptor(key, key.public_key())
    signing.intercept(context, lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


def _listening(process: subprocess.Popen[bytes]) -> set[int]:
    """Ports that a process and its children listen on, all on the loopback interface."""
    children = psutil.Process(process.pid).children(recursive=True)
    sockets = [c for child in children for c in child.net_connections("tcp")]
    listening = [c.laddr for c in sockets if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    return {address.port for address in listening}


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _until(condition: Callable[[], bool], *, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError):
            if condition():
                return
        assert time.monotonic() < until
        time.sleep(0.1)
