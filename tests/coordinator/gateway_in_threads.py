"""A gateway and a SuperLink that only remembers, each serving in a thread of this process."""

from __future__ import annotations

import asyncio
import base64
import datetime
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import Receive, Scope, Send

from coordinator.gateway_server import GatewayServer, GatewaySettings, create_server
from ppfl.settings import GatewayLimits
from tests.coordinator.certificates import openssh_line

ANSWER = b"an answer"


@dataclass
class Seen:
    """One request that reached SuperLink."""

    method: str
    path: bytes
    headers: list[tuple[bytes, bytes]]
    body: int = 0
    whole: bool = False


@dataclass
class RememberingLink:
    """SuperLink's place: it answers everything, and remembers what it was asked."""

    seen: list[Seen] = field(default_factory=list)
    answer: list[bytes] = field(default_factory=lambda: [ANSWER])
    status: int = 200
    wait: threading.Event = field(default_factory=threading.Event)  # before the last piece
    silent: bool = False  # waits before the first one, too
    breaks: bool = False  # hangs up before the last piece

    def __post_init__(self) -> None:
        self.wait.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Seen(scope["method"], scope["raw_path"], scope["headers"])
        self.seen.append(request)
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            request.body += len(event.get("body", b""))
            more = event.get("more_body", False)
        request.whole = True
        if self.silent:
            await self._waited()
        headers = [(b"content-type", b"application/x-protobuf"), (b"server", b"superlink")]
        headers.append((b"set-cookie", b"a=b"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.answer[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._waited()
        if not self.breaks:
            await send({"type": "http.response.body", "body": self.answer[-1]})

    async def _waited(self) -> None:
        while not self.wait.is_set():
            await asyncio.sleep(0.01)


@dataclass
class Site:
    """A gateway under test, as a site sees it."""

    link: RememberingLink
    port: int
    key: ec.EllipticCurvePrivateKey
    folder: Path
    stop_link: Callable[[], None]
    server: GatewayServer

    @contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        trusted = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as raw,
            trusted.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            yield wrapped

    def ask(self, request: bytes) -> bytes:
        """The answer to bytes, until the gateway hangs up or has answered once."""
        with self.connection() as wrapped:
            with suppress(OSError):  # what is refused need not be read to its end
                wrapped.sendall(request)
            return read_answer(wrapped)

    def signed(self, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """Header lines as Flower's SuperNode adds them."""
        key = key or self.key
        name = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        at = datetime.datetime.now(datetime.UTC).isoformat().encode()
        signature = base64.b64encode(key.sign(at, ec.ECDSA(hashes.SHA256())))
        return (
            b"flwr-public-key: %b\r\nflwr-timestamp: %b\r\nflwr-signature: %b\r\n"
            b"content-type: application/x-protobuf\r\n" % (base64.b64encode(name), at, signature)
        )

    def post(self, path: bytes, body: bytes = b"", *, headers: bytes = b"") -> bytes:
        """A signed request that Flower's client could make."""
        length = b"content-length: %d\r\n" % len(body)
        head = b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % path
        return head + self.signed() + headers + length + b"\r\n" + body


def read_answer(wrapped: ssl.SSLSocket) -> bytes:
    """One answer, whole if it says its length or ends its chunks, or all until the end."""
    answer = b""
    while True:
        try:
            piece = wrapped.recv(65536)
        except (ConnectionError, ssl.SSLError):
            return answer
        answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        whole = length is not None and len(body) >= int(length[1])
        if not piece or whole or body.endswith(b"0\r\n\r\n"):
            return answer


@contextmanager
def gateway(
    folder: Path,
    limits: GatewayLimits | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    registered: Path | None = None,
) -> Iterator[Site]:
    """A gateway before a remembering SuperLink; it knows one site, by ``key``."""
    link, key = RememberingLink(), key or ec.generate_private_key(ec.SECP384R1())
    if registered is None:
        registered = folder / "registered"
        registered.write_text(f"{openssh_line(key)}\n")
    with socket.create_server(("127.0.0.1", 0)) as inside:
        config = uvicorn.Config(link, lifespan="off", log_config=None, ws="none")
        behind = uvicorn.Server(config)
        settings = GatewaySettings(
            listen="127.0.0.1",
            port=0,
            certificate=folder / "server.crt",
            certificate_key=folder / "server.key",
            superlink=f"http://127.0.0.1:{inside.getsockname()[1]}",
            authority=folder / "ca.crt",
            sites={"alpha": openssh_line(key)},
            log=folder / "gateway.log",
            uploads=folder / "uploads.json",
            registered=registered,
            limits=limits or GatewayLimits(),
        )
        front = create_server(settings)
        port = front.listener.getsockname()[1]
        with serving(behind, [inside]) as stop_link, serving(front, None):
            yield Site(link, port, key, folder, stop_link, front)


@contextmanager
def serving(
    server: uvicorn.Server, sockets: list[socket.socket] | None
) -> Iterator[Callable[[], None]]:
    """Serve in a thread; what comes back ends that."""
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets)))

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=20)

    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield stop
    finally:
        stop()


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait for something that must come."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
