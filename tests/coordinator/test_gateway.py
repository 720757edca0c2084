"""What passes the gateway, and what does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.superlink.routers.fleet.router import router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

import coordinator.gateway_server
from coordinator.gateway import FLEET_ROUTES, read_node_keys
from coordinator.gateway_server import create_log
from ppfl.errors import KeyMaterialError
from ppfl.uploads import read_uploads
from tests.coordinator.certificates import openssh_line, write_certificates
from tests.coordinator.gateway_in_threads import ANSWER, Site, gateway, read_answer, wait_until

_PULL = b"/v1/fleet/pull-messages"
_PUSH = b"/v1/fleet/push-object"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def running(certificates: Path) -> Iterator[Site]:
    with gateway(certificates) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    running.link.seen.clear()
    running.link.answer = [ANSWER]
    running.link.wait.set()
    return running


def test_flowers_fleet_interface_is_the_one_that_the_gateway_knows() -> None:
    theirs = {(method, route.path) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    refused_by_flower = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert theirs == {("POST", path) for path in FLEET_ROUTES | refused_by_flower}


def test_flowers_own_client_talks_through_the_gateway(site: Site) -> None:
    site.link.answer = [b""]
    with FleetHttpClient.from_server_address(
        f"localhost:{site.port}",
        False,
        (site.folder / "ca.crt").read_bytes(),
        [NodeAuthHttpInterceptor(site.key, site.key.public_key())],
    ) as client:
        client.PullMessages(PullMessagesRequest())
        client.PushObject(PushObjectRequest(object_content=bytes(6_000_000)))
    pulled, pushed = site.link.seen
    assert pulled.path == _PULL
    assert pushed.path == _PUSH
    assert pushed.body > 6_000_000


@pytest.mark.parametrize(
    "line",
    [
        *(b"POST %b HTTP/1.1" % path for path in (
            b"/v1/control/start-run",
            b"/v1/control/register-node",
            b"/v1/runtime/acquire-task",
            b"/v1/fleet/register-node",
            b"/v1/fleet/unregister-node",
            b"/v1/fleet/",
            b"/v1/fleet",
            b"/v1/fleet/../control/start-run",
            b"/v1/fleet/pull-messages/../../control/start-run",
            b"/v1/fleet/%2e%2e/control/start-run",
            b"/v1/fleet/..%2fcontrol%2fstart-run",
            b"/v1/fleet/..\\control\\start-run",
            b"/v1/fleet/pull%2dmessages",
            b"/v1/fleet/pull-messages/",
            b"/v1/fleet/pull-messages;x",
            b"/v1/fleet/pull-messages?x",
            b"/v1/fleet/pull-messages%00",
            b"/v1/fleet/Pull-Messages",
            b"//v1/control/start-run",
            b"//v1/fleet/pull-messages",
            b"/./v1/fleet/pull-messages",
            b"/docs",
            b"/",
            b"/health",
            b"*",
            b"http://localhost/v1/control/start-run",
            b"http://localhost/v1/fleet/pull-messages",
            b"/v1/fleet/pull-messages#/v1/control/start-run",
        )),
        b"GET /v1/fleet/pull-messages HTTP/1.1",
        b"GET /openapi.json HTTP/1.1",
        b"PUT /v1/fleet/pull-messages HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"post /v1/fleet/pull-messages HTTP/1.1",
        b"CONNECT 127.0.0.1:9444 HTTP/1.1",
        b"POST /v1/fleet/pull-messages HTTP/1.0",
        b"POST /v1/fleet/pull-messages HTTP/2.0",
    ],
)  # fmt: skip
def test_another_request_is_not_there(site: Site, line: bytes) -> None:
    answer = site.ask(line + b"\r\nhost: localhost\r\n" + site.signed() + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.0 404 "))
    assert answer.endswith(b"\r\n\r\nrefused\n")
    assert b"connection: close" in answer.lower()
    assert site.link.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAA==\r\n",
        b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n",
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: 5, 6\r\n",
        b"content-length: +5\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"content-length: 5\r\n transfer-encoding: chunked\r\n",
        b"host: elsewhere\r\n",
        b"a\x00b: c\r\n",
        b"x: " + b"a" * 100_000 + b"\r\n",
        *(b"".join(b"x%d: %b\r\n" % (i, b"a" * 500) for i in range(n)) for n in (40, 1000)),
    ],
    ids=range(19),
)
def test_a_head_that_can_be_read_in_two_ways_or_is_too_long_is_refused(
    site: Site, headers: bytes
) -> None:
    inner = b"POST /v1/control/start-run HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % _PULL
    answer = site.ask(head + site.signed() + headers + b"\r\n0\r\n\r\n" + inner)
    # hanging up on a long head resets the connection, and the answer can get lost
    lost = not answer and len(headers) > 50_000
    assert lost or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 431 "))
    assert site.link.seen == []


def test_the_http2_preface_and_http_without_tls_are_refused(site: Site) -> None:
    assert site.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 4")
    assert site.ask(b"\x16\x03\x01 no request\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert site.link.seen == []


def test_what_follows_a_refused_request_is_not_read(site: Site) -> None:
    answer = site.ask(site.post(b"/v1/control/start-run") + site.post(_PULL))
    assert answer.count(b"HTTP/1.1") == 1
    assert site.link.seen == []


def test_requests_on_one_connection_are_each_judged(site: Site) -> None:
    with site.connection() as wrapped:
        for _ in range(2):
            wrapped.sendall(site.post(_PULL, b"abc"))
            assert read_answer(wrapped).startswith(b"HTTP/1.1 200 ")
        wrapped.sendall(site.post(b"/v1/control/start-run"))
        assert read_answer(wrapped).startswith(b"HTTP/1.1 404 ")
    assert [seen.path for seen in site.link.seen] == [_PULL, _PULL]


def test_a_request_is_passed_on_in_the_gateways_own_words(site: Site) -> None:
    strange = (
        b"x-forwarded-for: 10.0.0.1\r\nforwarded: for=10.0.0.1\r\ncookie: a=b\r\nte: trailers\r\n"
        b"connection: flwr-timestamp, keep-alive\r\nflwr-token: x\r\nX-Original-URL: /v1/x\r\n"
        b"accept-encoding: gzip\r\n"
    )
    answer = site.ask(site.post(_PULL, b"abc", headers=strange))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert ANSWER in answer
    assert b"set-cookie" not in answer
    (seen,) = site.link.seen
    headers = dict(seen.headers)
    assert len(headers) == len(seen.headers)
    assert headers.keys() - {b"user-agent"} == {
        *(b"flwr-public-key", b"flwr-signature", b"flwr-timestamp", b"content-type"),
        *(b"host", b"accept", b"accept-encoding", b"connection", b"content-length"),
        b"x-forwarded-for",
    }
    assert headers[b"x-forwarded-for"] == b"127.0.0.1"
    assert headers[b"accept-encoding"] == b"identity"
    assert headers[b"content-length"] == b"3"
    assert headers[b"host"] != b"localhost"


@pytest.mark.parametrize("path", sorted(FLEET_ROUTES))
def test_a_stranger_reaches_no_route(site: Site, path: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n" % path.encode()
    for headers in (b"", site.signed(key), site.signed() + site.signed(key)):
        answer = site.ask(head + headers + b"\r\nabc")
        assert answer.startswith(b"HTTP/1.1 401 ")
    assert site.link.seen == []


def test_a_signature_of_another_time_or_by_another_key_is_refused(site: Site) -> None:
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n" % _PULL
    first, second = (site.signed().splitlines(keepends=True) for _ in range(2))
    other = site.signed(ec.generate_private_key(ec.SECP384R1())).splitlines(keepends=True)
    for lines in (
        [first[0], second[1], first[2]],
        [first[0], other[1], other[2]],
        [first[0], first[1], b"flwr-signature: !\r\n"],
        [b"flwr-public-key: AAAA\r\n", *first[1:]],
        first[:2],
    ):
        answer = site.ask(head + b"".join(lines) + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
    assert site.link.seen == []
    assert site.ask(head + b"".join(first) + b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_no_site_connects_before_superlink_knows_it(certificates: Path, tmp_path: Path) -> None:
    registered = tmp_path / "registered"
    key, another = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    with gateway(certificates, key=key, registered=registered) as site:
        # a SuperNode asks again after 503
        assert site.ask(site.post(b"/v1/fleet/activate-node")).startswith(b"HTTP/1.1 503 ")
        registered.write_text(f"{openssh_line(another)}\n")  # of a study before this site came
        assert site.ask(site.post(b"/v1/fleet/activate-node")).startswith(b"HTTP/1.1 503 ")
        assert site.link.seen == []
        registered.write_text(f"{openssh_line(another)}\n{openssh_line(key)}\n")
        assert site.ask(site.post(b"/v1/fleet/activate-node")).startswith(b"HTTP/1.1 200 ")
        assert [seen.path for seen in site.link.seen] == [b"/v1/fleet/activate-node"]


def test_health_passes_without_a_key_and_without_a_body(site: Site) -> None:
    for method in (b"GET", b"HEAD"):
        body = b"connection: close\r\ncontent-length: 5\r\n\r\nabcde"
        answer = site.ask(method + b" /health HTTP/1.1\r\nhost: localhost\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert [(seen.method, seen.path, seen.body) for seen in site.link.seen] == [
        ("GET", b"/health", 0)
    ] * 2


def test_bodies_are_streamed_both_ways(site: Site) -> None:
    piece = bytes(1_000_000)
    site.link.answer = [piece, piece]
    site.link.wait.clear()
    with site.connection() as wrapped:
        whole = site.post(_PUSH, 4 * piece)
        wrapped.sendall(whole[:-2_000_000])
        wait_until(lambda: bool(site.link.seen) and site.link.seen[0].body > 1_500_000)
        assert not site.link.seen[0].whole
        wrapped.sendall(whole[-2_000_000:])
        received = 0
        while received < 900_000:
            received += len(wrapped.recv(65536))
        site.link.wait.set()
        while received < 2_000_000:
            received += len(wrapped.recv(65536))
    assert site.link.seen[0].body == 4_000_000


def test_a_chunked_body_passes(site: Site) -> None:
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n" % _PUSH
    chunks = b"5;ext=1\r\nabcde\r\n3\r\nfgh\r\n0\r\ntrailer: x\r\n\r\n"
    answer = site.ask(head + site.signed() + b"\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert site.link.seen[0].body == 8
    assert b"trailer" not in dict(site.link.seen[0].headers)


def test_a_refusal_is_logged_without_what_the_request_brought(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        site.ask(site.post(b"/\x1b]0;x\x07" + b"a" * 500, b"secret"))
        site.ask(site.post(b"/v1/control/start-run?" + b"a" * 5, b"secret"))
        wait_until(lambda: sum(name == "ppfl.gateway" for name, *_ in caplog.record_tuples) >= 2)
    assert [text for name, _, text in caplog.record_tuples if name == "ppfl.gateway"] == [
        "refused 127.0.0.1: a request: Invalid HTTP request received.",
        "refused 127.0.0.1: POST '/v1/control/start-run': a query",
    ]
    assert "secret" not in caplog.text


def test_the_log_of_refusals_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.gateway_server, "_LOG_BYTES", 2000)
    with closing(create_log(tmp_path / "requests.log")) as handler:
        for number in range(1000):
            told = f"refused 127.0.0.1: POST '/{number:04d}': a query"
            handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, told, None, None))
    logs = sorted(tmp_path.iterdir())
    assert [log.name for log in logs] == [
        "requests.log",
        *(f"requests.log.{n}" for n in range(1, 6)),
    ]
    assert max(log.stat().st_size for log in logs) <= 2000
    assert "'/0999'" in logs[0].read_text()
    assert "'/0000'" not in "".join(log.read_text() for log in logs)


def test_what_comes_in_of_an_answer_is_counted_and_what_breaks_off_is_not(site: Site) -> None:
    def sending() -> dict[str, int]:
        found = read_uploads(site.folder / "uploads.json")
        return {name: each.bytes for name, each in found.items()}

    site.ask(site.post(_PUSH, b"announced by nobody"))
    assert sending() == {}
    site.ask(site.post(b"/v1/fleet/push-messages"))
    assert sending() == {"alpha": 0}
    with site.connection() as wrapped:
        wrapped.sendall(site.post(_PUSH, bytes(3_000_000))[:-1])
        wait_until(lambda: site.link.seen[-1].body > 2_000_000)
    wait_until(lambda: not site.server.server_state.connections)
    time.sleep(1.1)  # what comes is written down once a second
    site.ask(site.post(_PUSH, bytes(1_000_000)))
    assert 0 < sending()["alpha"] <= 1_000_000
    site.ask(site.post(_PULL))
    assert sending() == {}


def test_a_key_that_is_none_is_named(site: Site) -> None:
    for line in ("ssh-ed25519 AAAA", "", "ecdsa-sha2-nistp384 AAAA"):
        with pytest.raises(KeyMaterialError, match="no elliptic-curve key"):
            read_node_keys([line])
