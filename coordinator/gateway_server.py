"""The gateway's process: TLS, connections, and HTTP as uvicorn reads it.

python -m coordinator.gateway_server SETTINGS.toml
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Coroutine
from http.cookiejar import CookieJar, DefaultCookiePolicy
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import h11
import httpx
import uvicorn
from pydantic import Field
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.gateway import Gateway, log_refusal, read_node_keys
from coordinator.peers import Peers, TooManyError, peer_of
from ppfl.errors import PortInUseError, RunError
from ppfl.settings import GatewayLimits, Section, read_settings
from ppfl.uploads import Uploads

_BACKLOG = 128
_LOG_BYTES, _LOGS = 10_000_000, 5
_KEEP_S = 4.0  # SuperLink hangs up on idle connections after 5
_GRACE_S = 5  # for requests under way when the gateway is told to end
_log = logging.getLogger("ppfl.gateway")


class GatewaySettings(Section):
    """All that the gateway's process must know."""

    listen: str = Field(description="address to listen on")
    port: int = Field(ge=0, le=65535)
    certificate: Path = Field(description="the server's, PEM")
    certificate_key: Path
    superlink: str = Field(description="https://127.0.0.1:PORT")
    authority: Path = Field(description="certificate of the CA that SuperLink's is checked by")
    sites: dict[str, str] = Field(
        description="the sites' keys, in OpenSSH's format, by their names"
    )
    log: Path
    uploads: Path = Field(description="file that says how much of each site's answer has come in")
    registered: Path = Field(description="the keys that SuperLink knows, one a line")
    limits: GatewayLimits = GatewayLimits()


class GatewayServer(uvicorn.Server):
    """A uvicorn server that counts connections before their TLS handshake, and bounds it in time.

    Args:
        app: the gateway.
        listener: a listening socket; it is closed at the end.
        tls: the server's certificate and key.
        limits: what one peer may ask.
        peers: whose connections are counted.
    """

    def __init__(
        self,
        app: Gateway,
        *,
        listener: socket.socket,
        tls: ssl.SSLContext,
        limits: GatewayLimits,
        peers: Peers,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",  # the strictest of the parsers about framing
            ws="none",
            lifespan="off",
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=int(limits.idle_s) + 1,  # our own timer comes first
            timeout_graceful_shutdown=_GRACE_S,
            proxy_headers=False,
            server_header=False,
            date_header=True,  # by which `ppfl doctor` at a site compares clocks
            access_log=False,
            log_config=None,
        )
        super().__init__(config)
        self._app = app
        self.listener, self._tls, self._limits, self._peers = listener, tls, limits, peers
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets=[])
        self.listener.setblocking(False)
        self._accepting = self._start(self._accept())
        self._accepting.add_done_callback(self._end)  # never serve without accepting

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End requests under way, then everything else."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self.listener.close()
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._app.close()

    def _end(self, _: asyncio.Task[None]) -> None:
        self.should_exit = True

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listener)
            except OSError as error:  # no file descriptor left, or a peer that is gone already
                _log.error("a connection could not be accepted: %s", error.strerror)
                await asyncio.sleep(0.2)
                continue
            peer = peer_of(address)
            try:
                self._peers.connect(peer)
            except TooManyError as refused:
                connection.close()
                if not refused.repeated:
                    log_refusal(peer, "a connection", refused)
            else:
                self._start(self._serve_connection(connection, peer))

    async def _serve_connection(self, connection: socket.socket, peer: str) -> None:
        protocol = _Connection(self.config, self.server_state, peer, self._limits.idle_s)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=self._limits.handshake_s,
            )
            await protocol.lost.wait()
        except OSError as error:
            log_refusal(peer, "a TLS handshake", getattr(error, "reason", None) or error)
        finally:
            self._peers.disconnect(peer)


class _Connection(H11Protocol):
    """One connection; it ends when a request's head does not come in time."""

    def __init__(self, config: uvicorn.Config, state: Any, peer: str, idle_s: float) -> None:
        super().__init__(config, state, {})
        self.lost = asyncio.Event()
        self._peer, self._idle_s = peer, idle_s
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        self.lost.set()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        log_refusal(self._peer, "a request", msg)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _await_head(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._idle_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def create_server(settings: GatewaySettings) -> GatewayServer:
    """The gateway as these settings describe it, listening but not yet serving.

    Raises:
        PortInUseError: another program listens there.
        RunError: the address cannot be listened on, or a certificate or key cannot be read.
        KeyMaterialError: a site's key is none.
    """
    limits = settings.limits
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.set_alpn_protocols(["http/1.1"])
    try:
        tls.load_cert_chain(settings.certificate, settings.certificate_key)
        trusted = ssl.create_default_context(cafile=str(settings.authority))
    except OSError as error:
        raise RunError(f"the gateway's certificates cannot be used: {error}") from None
    upstream = httpx.AsyncClient(
        base_url=settings.superlink,
        verify=trusted,
        trust_env=False,
        headers={"accept-encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # one peer's reach no other
        timeout=httpx.Timeout(limits.stall_s, read=limits.request_s),
        limits=httpx.Limits(max_connections=limits.connections, keepalive_expiry=_KEEP_S),
    )
    peers = Peers(limits)
    app = Gateway(
        upstream,
        node_keys=read_node_keys(settings.sites.values()),
        names={
            key: site for site, line in settings.sites.items() for key in read_node_keys([line])
        },
        limits=limits,
        peers=peers,
        uploads=Uploads(settings.uploads),
        registered=settings.registered,
    )
    try:
        family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
        address = (settings.listen, settings.port)
        listener = socket.create_server(
            address,
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=settings.listen == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        kind = PortInUseError if error.errno == errno.EADDRINUSE else RunError
        raise kind(
            f"{settings.listen} port {settings.port} cannot be listened on: {error.strerror}"
        ) from None
    return GatewayServer(app, listener=listener, tls=tls, limits=limits, peers=peers)


def create_log(path: Path) -> logging.Handler:
    """Where the refusals are written; strangers can cause them, so it must not fill the disk."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOGS)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _main() -> None:
    settings = read_settings(Path(sys.argv[1]), GatewaySettings)
    logging.basicConfig(level=logging.INFO, handlers=[create_log(settings.log)])
    for name in ("uvicorn.error", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    server = create_server(settings)
    _log.info("listening on %s port %s", settings.listen, settings.port)
    server.run()


if __name__ == "__main__":
    _main()
