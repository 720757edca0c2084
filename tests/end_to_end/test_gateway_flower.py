"""Flower's own processes behind the gateway, started as the coordinator and a site start them."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from coordinator.control import Control
from coordinator.gateway import FLEET_ROUTES
from ppfl.errors import ApprovalError
from ppfl.federation import read_events
from ppfl.federation.journal import Refused
from ppfl.running import read_running
from ppfl.settings import Connection, SiteFile
from sites.bundle import _APP
from sites.reach import check_coordinator
from tests.coordinator.certificates import openssh_line, write_certificates

_SERVER = """
import os, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
from ppfl.federation import Journal
from ppfl.federation.journal import StudyClosed
from sites.messages import read_answer, read_sealed, write_sealed

app = ServerApp()

@app.main()
def main(grid, context):
    run = Path(os.environ["PPFL_RUN"])
    while not (nodes := list(grid.get_node_ids())) or not (run / "go").exists():
        time.sleep(0.2)
    sent, content = os.urandom(12_000_000), RecordDict()
    write_sealed(content, "v", sent)
    message = Message(content, dst_node_id=nodes[0], message_type="train")
    waiting = list(grid.push_messages([message]))
    while not (replies := list(grid.pull_messages(waiting))):
        time.sleep(0.2)
    if "refusal" in replies[0].content:
        refusal = read_answer(replies[0].content)
        (run / "refused").write_text(f"{refusal.site} {refusal.code}: {refusal.sentence}")
        raise RuntimeError("refused")
    assert read_sealed(replies[0].content, "v") == sent[::-1]
    journal = Journal(run / "journal.jsonl")
    journal.write(StudyClosed(rounds=1, sites=("a",), model_sha256="0" * 64, seconds=1.0))
"""
_CLIENT = """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from sites.messages import read_sealed, write_sealed

app = ClientApp()

@app.train()
def train(message, context):
    assert context.node_config["site-file"].endswith("site.toml")
    content = RecordDict()
    write_sealed(content, "v", read_sealed(message.content, "v")[::-1])
    return Message(content, reply_to=message)
"""
# the two apps stand in for the installed ones, each only on the side that it is for
_STAND_IN = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        here = os.environ.get("STAND_IN", "").split("=")
        return importlib.util.spec_from_file_location(name, here[1]) if name == here[0] else None

sys.meta_path.insert(0, Finder())
"""
_COORDINATOR = """
import json, logging, sys
from pathlib import Path
import coordinator.serve
from coordinator.serve import CoordinatorPlace, serve_coordinator
from flwr.cli.build import build_fab_from_disk
logging.basicConfig(level=logging.INFO)
told = json.loads(sys.argv[1])
folder = Path(told["folder"])
bundles = [build_fab_from_disk(folder / "app"), coordinator.serve.app_bundle()]
coordinator.serve.app_bundle = lambda: bundles.pop(0)
assert serve_coordinator(CoordinatorPlace(
    folder=folder / "coordinator", run=folder / "run", listen="127.0.0.1", port=told["port"],
    superlink_port=told["superlink_port"], certificate=folder / "server.crt",
    certificate_key=folder / "server.key", authority=folder / "ca.crt",
    journal_key=folder / "journal.key", sites=told["sites"],
), each=lambda: None)
"""
_SITE = """
import json, logging, sys
from pathlib import Path
import sites.serve
from ppfl.errors import ElsewhereError
from sites.serve import serve_site
logging.basicConfig(level=logging.INFO)
told = json.loads(sys.argv[1])
folder = Path(told["folder"])
sites.serve._ELSEWHERE_S = told["elsewhere_s"]
try:
    serve_site(
        site_file=folder / "a site" / "site.toml", superlink=f"127.0.0.1:{told['port']}",
        authority=folder / "ca.crt", node_key=folder / "node.key", node_port=told["node_port"],
        folder=folder / told["site"], each=lambda: None,
    )
except ElsewhereError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


_FIRST = {"site": "site", "elsewhere_s": 180}
_UNTYPED = {"/docs", "/openapi.json", "/v1/runtime/responses"}
_ROUTES = {path for _, path in PROTOBUF_REQUEST_TYPES} | _UNTYPED


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """A folder with certificates, a key and an app that echoes, and free ports."""
    write_certificates(tmp_path)
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    (tmp_path / "node.key").write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    (tmp_path / "node.key").chmod(0o600)
    with_code = deepcopy(_APP)
    with_code["tool"]["flwr"]["app"]["components"]["clientapp"] = "evil:app"
    site = SiteFile(name="a", data=tmp_path)
    for name, text in {
        "app/pyproject.toml": tomli_w.dumps(with_code),
        "app/evil.py": f"open({str(tmp_path / 'executed')!r}, 'w')\n{_CLIENT}",
        "stand_in/sitecustomize.py": _STAND_IN,
        "a site/site.toml": site.to_toml(),
        "server.py": _SERVER,
        "client.py": _CLIENT,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "run").mkdir()
    names = ("port", "superlink_port", "node_port", "second_port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    return {"folder": str(tmp_path), "sites": {"a": openssh_line(key)}} | ports | _FIRST


@pytest.mark.slow
def test_a_site_takes_part_through_the_gateway_and_a_stranger_does_not(
    told: dict[str, Any], tmp_path: Path
) -> None:
    """The first run brings code and is refused, the second is the coordinator's own.

    Meanwhile a second machine with the site's folder is refused, and whoever asks for work.
    """
    log = tmp_path / "coordinator" / "superlink.log"
    processes = [_start(_COORDINATOR, told, f"coordinator.server_app={tmp_path}/server.py")]
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
            check_coordinator(_connection(told))  # as `ppfl site run` looks for it
            signed = _signature(tmp_path / "node.key")
            answers = _ask_everything(client, signed)
            assert {path for path, status in answers.items() if status != 404} == FLEET_ROUTES
            processes.append(_start(_SITE, told, f"sites.client_app={tmp_path}/client.py"))
            asked = log.read_text().removeprefix(before)
            # an empty request names no node: SuperLink itself refuses it
            assert set(re.findall(r'"POST (\S+) HTTP/1.1" 401', asked)) == FLEET_ROUTES
        coordinator, site = processes
        control = Control(told["superlink_port"], tmp_path / "ca.crt")
        _until(lambda: control.connected() == {"a"})
        _require_secrets(told)
        second = told | {"site": "second", "node_port": told["second_port"], "elsewhere_s": 0}
        other = _start(_SITE, second, "", stderr=subprocess.PIPE)
        processes.append(other)
        _, errors = other.communicate(timeout=240)
        assert "another SuperNode of this site is connected, or was until a minute" in errors
        assert errors.splitlines()[-1].startswith("47: another SuperNode of this site is connected")
        assert control.connected() == {"a"}
        control.close()
        (tmp_path / "run" / "go").touch()
        assert read_running(tmp_path / "coordinator").pid == coordinator.pid
        assert _listening(coordinator) == {told["port"], told["superlink_port"]}
        assert coordinator.wait(timeout=240) == 0
        children = psutil.Process(site.pid).children(recursive=True)
        assert len(children) >= 3
        site.kill()
        _until(lambda: not any(child.is_running() for child in children))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not (tmp_path / "executed").exists()  # the code that the first run brought along
    answer = (tmp_path / "run" / "refused").read_text()
    assert answer == f"a {ApprovalError.code}: {ApprovalError.public_sentence}"
    (refused,) = read_events(tmp_path / "a site" / "work" / "journal.jsonl", Refused)
    assert refused.code == ApprovalError.code
    assert refused.reason.startswith("the run brings bundle ")
    secret = tmp_path / "coordinator" / "superexec.secret"
    assert secret.stat().st_mode & 0o777 == 0o600


def _connection(told: dict[str, Any]) -> Connection:
    folder = Path(told["folder"])
    return Connection(
        host="127.0.0.1",
        port=told["port"],
        ca_certificate=folder / "ca.crt",
        node_key=folder / "node.key",
    )


def _require_secrets(told: dict[str, Any]) -> None:
    """Ask SuperLink and the SuperNode for work at their own ports, as whoever is on the machine."""
    folder = Path(told["folder"])
    trusted = (folder / "ca.crt").read_bytes()
    for where, port, authority in (
        ("coordinator", told["superlink_port"], trusted),
        ("site", told["node_port"], None),
    ):
        own = (folder / where / "superexec.secret").read_bytes()
        answers = [_acquire(port, authority, secret) for secret in (None, os.urandom(32), own)]
        assert answers == [401, 401, 200]


def _acquire(port: int, authority: bytes | None, secret: bytes | None) -> int:
    """What a SuperExec gets that can do no kind of work, and so takes none from the real one."""
    interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret is not None:
        signing = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
        )
        interceptors.append(signing)
    client = RuntimeHttpClient.from_server_address(
        f"127.0.0.1:{port}", authority is None, authority, interceptors
    )
    with client:
        try:
            client.AcquireTask(AcquireTaskRequest())
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


def _start(
    code: str, told: dict[str, Any], stand_in: str, *, stderr: int | None = None
) -> subprocess.Popen[str]:
    places = [f"{told['folder']}/stand_in", *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "STAND_IN": stand_in}
    command = [sys.executable, "-c", code, json.dumps(told)]
    return subprocess.Popen(command, env=environment, stderr=stderr, text=True)


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


def _listening(process: subprocess.Popen[str]) -> set[int]:
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


def _until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError):
            if condition():
                return
        assert time.monotonic() < until
        time.sleep(0.1)
