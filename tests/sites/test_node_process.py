"""The SuperNode's own process: what it outlives, and when it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.error import ApiErrorCode
from flwr.supernode.fleet_http_client import FleetHttpClient

from ppfl.errors import ElsewhereError
from ppfl.uploads import read_uploads
from sites.flower import flower_environment
from sites.node_process import _Telling
from sites.phase import Phase, read_phase
from sites.upload import Upload
from tests.coordinator.certificates import write_certificates
from tests.coordinator.gateway_in_threads import Site, gateway, wait_until
from tests.deployed import free_port
from tests.live.line import Line

_PULL = b"/v1/fleet/pull-messages"


def _asks_again(site: Site) -> Callable[[], bool]:
    """Whether the SuperNode has asked for messages since."""
    before = sum(seen.path == _PULL for seen in site.link.seen)
    return lambda: sum(seen.path == _PULL for seen in site.link.seen) > before


@contextmanager
def _supernode(site: Site, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which writes to supernode.log; the coordinator is at a port."""
    form = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    key = site.key.private_bytes(serialization.Encoding.PEM, *form)
    (folder / "node.key").write_bytes(key)
    with (folder / "supernode.log").open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "sites.node_process", folder),
                *("--superlink", f"127.0.0.1:{port}", "--root-certificates", folder / "ca.crt"),
                *("--auth-supernode-private-key", folder / "node.key"),
                *("--host", "127.0.0.1", "--port", str(free_port()), "--isolation", "process"),
            ],
            env=flower_environment(folder / "flower"),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_supernode_outlives_hang_ups_in_the_handshake_and_ends_when_it_gives_up(
    tmp_path: Path,
) -> None:
    write_certificates(tmp_path)
    with gateway(tmp_path) as site, Line(site.port) as line:
        site.link.answer = [ActivateNodeResponse(node_id=7).SerializeToString()]
        with _supernode(site, tmp_path, line.port) as process:
            wait_until(_asks_again(site), seconds=240)  # Flower takes long to start where all do
            line.cut()
            wait_until(lambda: line.refused > 0)
            line.mend()
            wait_until(_asks_again(site))
            site.link.status = 400
            assert process.wait(timeout=240) == 1
    assert b"SSL/TLS handshake error" not in (tmp_path / "supernode.log").read_bytes()


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, ElsewhereError.exit_code), (2001, 1)],
)
def test_a_supernode_ends_with_a_code_of_its_own_where_superlink_has_another(
    code: int, exit_code: int, tmp_path: Path
) -> None:
    write_certificates(tmp_path)
    with gateway(tmp_path) as site:
        site.link.status, site.link.answer = 412, [b'{"code":%d,"detail":"No."}' % code]
        with _supernode(site, tmp_path, site.port) as process:
            assert process.wait(timeout=240) == exit_code


def test_both_ends_say_how_much_of_an_answer_has_passed(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    Phase(tmp_path).finish(2, of=6_000_000)
    with gateway(tmp_path) as site:
        site.link.answer = [b""]
        keys = site.key, site.key.public_key()
        with FleetHttpClient.from_server_address(
            f"localhost:{site.port}",
            False,
            (tmp_path / "ca.crt").read_bytes(),
            [_Telling(Upload(tmp_path), *keys)],
        ) as client:
            client.PushMessages(PushMessagesRequest())
            assert list(read_uploads(tmp_path / "uploads.json")) == ["alpha"]
            client.PushObject(PushObjectRequest(object_content=bytes(6_000_000)))
            told = {"round": 2, "done": 6_000_000, "of": 6_000_000}
            assert read_phase(tmp_path) == told | {"phase": "upload"}
            client.PullMessages(PullMessagesRequest())
            assert read_phase(tmp_path) == told | {"phase": "done"}
        assert site.link.seen[1].body > 6_000_000
    assert read_uploads(tmp_path / "uploads.json") == {}
