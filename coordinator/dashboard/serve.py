"""The dashboard's process."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from coordinator.dashboard.access import Access, read_token
from coordinator.dashboard.app import create_app
from coordinator.dashboard.runs import Runs
from coordinator.dashboard.watch import Watch
from ppfl.errors import CertificateError, RunError, SettingsError
from ppfl.running import require_free_port

_GRACE_S = 1  # for answers that are being given when the dashboard is told to end
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class DashboardPlace:
    """What the dashboard shows, and where.

    Args:
        folder: a run, a folder of runs, or a folder of coordinators' folders.
        token_file: where the log-in token lies, or is to be made.
        port: the port to listen on.
        listen: IP address to listen on.
        certificate: for TLS, PEM; without it only the loopback interface is listened on.
        certificate_key: its private key.
    """

    folder: Path
    token_file: Path
    port: int
    listen: str = "127.0.0.1"
    certificate: Path | None = None
    certificate_key: Path | None = None

    def __str__(self) -> str:
        """Where a browser finds it, and how one gets in."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.listen}]" if ":" in self.listen else self.listen
        return f"Dashboard: {scheme}://{host}:{self.port}/, the token: {self.token_file}"

    def to_arguments(self) -> list[str]:
        """What `ppfl dashboard` is to be told, for a place on the loopback interface."""
        return [str(self.folder), "--port", str(self.port), "--token-file", str(self.token_file)]


def serve_dashboard(place: DashboardPlace, *, began: Callable[[], None]) -> None:
    """Serve the dashboard until SIGTERM or SIGINT; ``began`` is called when all is in order.

    Raises:
        RunError: there is no such folder, or the address cannot be listened on.
        PortInUseError: another program listens on the port.
        SettingsError: others could read along: an address beyond this machine and no certificate.
        KeyFileError: the token cannot be made or read.
        KeyAccessError: others can read the token.
        CertificateError: the certificate or its key cannot be used.
    """
    loopback = _is_loopback(place.listen)
    if not loopback and place.certificate is None:
        raise SettingsError(
            f"{place.listen} can be reached from other machines, and without a certificate what "
            "they are sent can be read on the way",
            hint="--certificate and --certificate-key; or leave --listen out and use "
            f"ssh -L {place.port}:127.0.0.1:{place.port}",
        )
    watch, access = Watch(Runs(place.folder)), Access(read_token(place.token_file))
    _check_certificate(place)
    require_free_port(place.listen, place.port)
    app = create_app(
        watch,
        access,
        hosts=_LOOPBACK | {place.listen} if loopback else frozenset(),
        secure=place.certificate is not None,
    )
    began()
    config = uvicorn.Config(
        app,
        host=place.listen,
        port=place.port,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.certificate_key,
        loop="asyncio",
        http="h11",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config, watch)
    with suppress(KeyboardInterrupt):  # raised once more when all has ended
        server.run()
    if not server.started:
        raise RunError("the dashboard did not start; its log says why")


class _Server(uvicorn.Server):
    """Lets the open pages go before it waits for what is being answered."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._watch.end()
        await super().shutdown(sockets)


def _is_loopback(listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError:
        raise SettingsError(f"{listen} is no IP address") from None


def _check_certificate(place: DashboardPlace) -> None:
    if place.certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place.certificate, place.certificate_key)
    except OSError as error:
        raise CertificateError(f"{place.certificate}: cannot be used: {error.strerror}") from None
