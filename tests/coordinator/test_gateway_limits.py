"""How much, how fast and how long one peer may ask."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from coordinator.gateway_server import GatewaySettings, create_server
from coordinator.peers import Peers, TooManyError, peer_of
from ppfl.errors import RunError
from ppfl.settings import GatewayLimits
from tests.coordinator.certificates import write_certificates
from tests.coordinator.gateway_in_threads import Site, gateway, read_answer, wait_until

_PULL, _PUSH = b"/v1/fleet/pull-messages", b"/v1/fleet/push-object"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


def test_a_body_longer_than_its_route_allows_is_refused(certificates: Path) -> None:
    limits = GatewayLimits(object_bytes=2**20, message_bytes=2**16)
    with gateway(certificates, limits) as site:
        assert site.ask(site.post(_PUSH, bytes(2**20))).startswith(b"HTTP/1.1 200 ")
        assert site.ask(site.post(_PULL, bytes(2**16))).startswith(b"HTTP/1.1 200 ")
        site.link.seen.clear()
        for path, size in ((_PUSH, 2**20 + 1), (_PULL, 2**16 + 1)):
            head = site.post(path).replace(b"length: 0", b"length: %d" % size)
            assert site.ask(head).startswith(b"HTTP/1.1 413 ")
        assert site.link.seen == []
        chunked = b"content-type: x\r\ntransfer-encoding: chunked\r\n\r\n"
        head = b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % _PULL + site.signed()
        body = b"8000\r\n" + bytes(2**15) + b"\r\n"
        assert site.ask(head + chunked + 3 * body).startswith(b"HTTP/1.1 413 ")
        assert all(not seen.whole for seen in site.link.seen)


def test_beyond_the_rate_requests_get_503_and_connections_nothing(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(requests_per_s=0.01, burst=3)) as site:
        # Flower's client repeats what got 503
        assert _on_a_connection(site, 3) == [b"200", b"200", b"503"]
        assert _on_a_connection(site, 1) == [b""]


def _on_a_connection(site: Site, times: int) -> list[bytes]:
    """The statuses of requests on one connection, empty where it was not accepted."""
    answers = []
    try:
        with site.connection() as wrapped:
            for _ in range(times):
                wrapped.sendall(site.post(_PULL))
                answers.append(read_answer(wrapped)[9:12])
    except OSError:
        answers.append(b"")
    return answers


def test_a_peer_has_so_many_connections(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(connections_per_peer=2)) as site:
        with site.connection() as first, site.connection():
            with pytest.raises(OSError, match=r"reset|EOF|closed"), site.connection():
                pass
            first.sendall(site.post(_PULL))
            assert read_answer(first).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: _on_a_connection(site, 1) == [b"200"])


def test_connections_still_in_their_handshake_count_and_end(certificates: Path) -> None:
    limits = GatewayLimits(connections=1, handshake_s=1)
    with gateway(certificates, limits) as site:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as silent:
            assert _on_a_connection(site, 1) == [b""]
            assert silent.recv(1) == b""
        assert 0.9 < time.monotonic() - began < 9  # by default it is 10
        wait_until(lambda: _on_a_connection(site, 1) == [b"200"])


@pytest.mark.parametrize("head", [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: lo"])
def test_a_connection_ends_when_no_head_comes(certificates: Path, head: bytes) -> None:
    with gateway(certificates, GatewayLimits(idle_s=1)) as site, site.connection() as wrapped:
        wrapped.sendall(head)
        for byte in b"calhost":  # a byte now and then does not help
            time.sleep(0.2)
            try:
                wrapped.sendall(bytes([byte]) if head else b"")
            except OSError:
                break
        assert read_answer(wrapped) == b""


def test_a_connection_ends_when_no_next_request_comes(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(idle_s=1)) as site, site.connection() as wrapped:
        wrapped.sendall(site.post(_PULL))
        assert read_answer(wrapped).startswith(b"HTTP/1.1 200 ")
        assert read_answer(wrapped) == b""


def test_a_refused_body_cannot_go_on_for_ever(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(idle_s=1)) as site, site.connection() as wrapped:
        wrapped.sendall(b"GET /health HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n")

        def go_on() -> bool:
            try:
                wrapped.sendall(b"1\r\na\r\n")
            except OSError:
                return True
            return False

        wait_until(go_on, seconds=15)  # by default it is 20


def test_a_refused_body_that_turns_to_nonsense_ends_the_connection(
    certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway(certificates) as site, site.connection() as wrapped:
        wrapped.sendall(b"GET /health HTTP/1.1\r\nhost: l\r\ntransfer-encoding: chunked\r\n\r\n")
        assert read_answer(wrapped).startswith(b"HTTP/1.1 200 ")
        wrapped.sendall(b"nonsense\r\n")
        assert read_answer(wrapped) == b""
    assert not [name for name, *_ in caplog.record_tuples if name == "asyncio"]


def test_a_gateway_that_accepts_no_more_ends(certificates: Path) -> None:
    with gateway(certificates) as site:
        accepting = site.server._accepting
        accepting.get_loop().call_soon_threadsafe(accepting.cancel)
        wait_until(lambda: site.server.should_exit)


def test_a_body_that_stalls_and_an_answer_that_is_late_get_504(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(stall_s=1)) as site:
        whole = site.post(_PUSH, b"abc")
        assert site.ask(whole[:-1]).startswith(b"HTTP/1.1 504 ")
        wait_until(lambda: bool(site.link.seen))
        assert not site.link.seen[0].whole
    with gateway(certificates, GatewayLimits(request_s=0.3)) as site:
        site.link.wait.clear()
        site.link.silent = True
        assert site.ask(site.post(_PULL)).startswith(b"HTTP/1.1 504 ")
        site.link.wait.set()


def test_a_reader_that_stalls_is_hung_up_on(certificates: Path) -> None:
    with gateway(certificates, GatewayLimits(stall_s=0.3)) as site, site.connection() as wrapped:
        site.link.answer = [bytes(2**20)] * 40
        wrapped.sendall(site.post(_PULL))
        wait_until(lambda: bool(site.link.seen))
        wait_until(lambda: not site.server.server_state.connections, seconds=20)
        received = 0
        while piece := _some(wrapped):
            received += len(piece)
        assert received < 30 * 2**20


def _some(wrapped: socket.socket) -> bytes:
    try:
        return wrapped.recv(2**20)
    except OSError:
        return b""


def test_a_superlink_that_is_away_is_502(certificates: Path) -> None:
    with gateway(certificates) as site:
        site.stop_link()
        assert site.ask(site.post(_PULL)).startswith(b"HTTP/1.1 502 ")


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(certificates: Path) -> None:
    with gateway(certificates) as site:
        site.link.answer = [b"half", b""]
        site.link.breaks = True
        answer = site.ask(site.post(_PULL))
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")


def test_buckets_fill_again_and_quiet_peers_are_forgotten() -> None:
    now = [0.0]
    peers = Peers(GatewayLimits(requests_per_s=2, burst=4), clock=lambda: now[0])
    for _ in range(4):
        peers.take("a")
    for repeated in (False, True):
        with pytest.raises(TooManyError, match="too many requests") as caught:
            peers.take("a")
        assert caught.value.repeated is repeated
    now[0] = 1.4  # two and a little, not more
    peers.take("a")
    peers.take("a")
    with pytest.raises(TooManyError):
        peers.take("a")
    now[0] = 100
    for number in range(5000):
        peers.take(str(number))
    assert "a" not in peers._buckets
    for _ in range(4):
        peers.take("a")
    with pytest.raises(TooManyError) as caught:
        peers.take("a")
    assert not caught.value.repeated


def test_connections_are_counted_of_each_peer_and_of_all() -> None:
    peers = Peers(GatewayLimits(connections=3, connections_per_peer=2))
    peers.connect("a")
    peers.connect("a")
    with pytest.raises(TooManyError, match="of this peer"):
        peers.connect("a")
    peers.connect("b")
    with pytest.raises(TooManyError, match=r"too many connections$"):
        peers.connect("c")
    peers.disconnect("a")
    peers.connect("c")


def test_a_subscriber_of_ipv6_is_one_peer() -> None:
    assert peer_of(("192.0.2.1", 1)) == "192.0.2.1"
    assert peer_of(("::ffff:192.0.2.1", 1)) == "192.0.2.1"
    assert peer_of(("2001:db8::1", 1)) == peer_of(("2001:db8::ffff:2", 2)) == "2001:db8::/64"
    assert peer_of(("fe80::1%eth0", 1)) == "fe80::/64"


def test_what_cannot_be_listened_with_is_said(certificates: Path) -> None:
    settings = GatewaySettings(
        listen="127.0.0.1",
        port=0,
        certificate=certificates / "server.crt",
        certificate_key=certificates / "server.key",
        superlink="http://127.0.0.1:1",
        authority=certificates / "ca.crt",
        sites={},
        log=certificates / "gateway.log",
        uploads=certificates / "uploads.json",
        registered=certificates / "registered",
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = settings.model_copy(update={"port": taken.getsockname()[1]})
        with pytest.raises(RunError, match="cannot be listened on"):
            create_server(busy)
    for name in ("certificate", "authority"):
        with pytest.raises(RunError, match="certificates cannot be used"):
            create_server(settings.model_copy(update={name: certificates / "server.key"}))
