"""The gateway: what of the coordinator's SuperLink can be reached from outside.

SuperLink serves Flower's Fleet, Control and Runtime interfaces on one port. Only Fleet asks for a
site's key: whoever reaches Control may start a run, that is, execute code at every hospital. So
SuperLink listens on the loopback interface, and sites reach it through this application, which
passes on the requests listed here and nothing else. What is passed on is written anew (path,
framing and headers), so that both sides cannot read one request in two ways.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import Message, Receive, Scope, Send

from coordinator.peers import Peers, TooManyError, peer_of
from ppfl.errors import KeyMaterialError
from ppfl.settings import GatewayLimits
from ppfl.uploads import Uploads

FLEET_ROUTES: Final = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    )
)
"""What a SuperNode with a key calls. SuperLink always refuses the other two, ``register-node`` and
``unregister-node``, where nodes authenticate."""

_HEALTH, _OBJECT = "/health", "/v1/fleet/push-object"
_ACTIVATE = "/v1/fleet/activate-node"
_ANNOUNCE, _PULL = "/v1/fleet/push-messages", "/v1/fleet/pull-messages"
_NODE_KEY, _SIGNATURE, _SIGNED = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
_VERSION, _FLOWER = b"flwr-package-version", version("flwr")
_REQUEST_HEADERS = frozenset(
    {
        *(_NODE_KEY, _SIGNATURE, _SIGNED),
        *(b"flwr-package-name", _VERSION, b"flwr-component-name"),
        *(b"accept", b"content-type"),
    }
)
_RESPONSE_HEADERS = frozenset(
    {b"content-length", b"content-type", b"flwr-version-incompatibility-message"}
)
_LONGEST = 80  # characters of a path that are logged
_REFUSED = b"refused\n"
_OTHER_VERSION = 1001  # by which Flower's SuperNode knows that its version is not the right one
_log = logging.getLogger("ppfl.gateway")


class _RefusedError(Exception):
    """A request that is not passed on.

    Flower's SuperNode repeats a request after 502, 503 and 504, ends after 401 and takes 403 for
    the end of a run: so 404 says that there is nothing here, and 503 and 504 "later".
    """

    def __init__(self, status: int, reason: str, *, body: bytes = _REFUSED) -> None:
        super().__init__(reason)
        self.status, self.body = status, body


class _DisconnectedError(Exception):
    """The peer went away in the middle of a request."""


class Gateway:
    """The application (ASGI) between the sites and SuperLink.

    Args:
        upstream: a client of SuperLink, with its address as ``base_url``.
        node_keys: the sites' keys, from :func:`read_node_keys`. SuperLink checks a site's key
            itself, but only after it has read a request's body into memory; here the head decides.
        names: the sites' names by the same bytes.
        limits: what one peer may ask.
        peers: whose requests are counted; shared with the server that counts connections.
        uploads: what comes in of each site's answer.
        registered: a file with the keys that SuperLink knows, in OpenSSH's format, one a line; it
            may come later. A site that connects before its key is known is answered by SuperLink
            as if it were connected already, and that ends a SuperNode.
    """

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        *,
        node_keys: Mapping[bytes, ec.EllipticCurvePublicKey],
        names: Mapping[bytes, str],
        limits: GatewayLimits,
        peers: Peers,
        uploads: Uploads,
        registered: Path,
    ) -> None:
        self._upstream, self._node_keys, self._names = upstream, node_keys, names
        self._limits, self._peers, self._uploads = limits, peers, uploads
        self._registered = registered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        peer, answer = peer_of(scope["client"]), _Answer(send, self._limits.stall_s)
        what = f"{scope['method'][:16]} {_printable(scope['raw_path'])}"
        try:
            self._peers.take(peer)
            async with asyncio.timeout(self._limits.request_s):
                await self._serve(scope, receive, answer, peer)
        except _DisconnectedError:
            _log.info("%s went away: %s", peer, what)
        except TooManyError as refused:
            if not refused.repeated:
                log_refusal(peer, what, refused)
            await answer.refuse(503)
        except _RefusedError as refused:
            log_refusal(peer, what, refused)
            await answer.refuse(refused.status, refused.body)
        except (httpx.TransportError, TimeoutError) as error:
            log_refusal(peer, what, type(error).__name__)
            late = isinstance(error, TimeoutError | httpx.TimeoutException)
            await answer.refuse(504 if late else 502)

    async def close(self) -> None:
        """Hang up on SuperLink."""
        await self._upstream.aclose()

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, peer: str) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        path = _check_target(scope)
        _check_head(headers, self._limits.head_bytes)
        if path == _HEALTH:
            await self._pass_on(self._upstream.build_request("GET", _HEALTH), answer)
            return
        key = _check_signature(headers, self._node_keys)
        site = self._names[key]
        _check_version(headers)
        if path == _ACTIVATE and not self._is_registered(key):
            raise _RefusedError(503, "SuperLink does not know the site yet")
        if path == _ANNOUNCE:
            self._uploads.begin(site)
        elif path == _PULL:  # a SuperNode that asks for messages has sent its answer, or lost it
            self._uploads.end(site)
        limit = self._limits.object_bytes if path == _OBJECT else self._limits.message_bytes
        kept = [*_kept(headers, limit), (b"x-forwarded-for", peer.encode())]
        with self._uploads.counting(site if path == _OBJECT else "") as count:
            body = self._body(receive, limit, count)
            request = self._upstream.build_request("POST", path, headers=kept, content=body)
            await self._pass_on(request, answer)

    def _is_registered(self, key: bytes) -> bool:
        return self._registered.exists() and key in read_node_keys(
            self._registered.read_text(encoding="ascii").splitlines()
        )

    async def _pass_on(self, request: httpx.Request, answer: _Answer) -> None:
        response = await self._upstream.send(request, stream=True)
        try:
            kept = [h for h in response.headers.raw if h[0].lower() in _RESPONSE_HEADERS]
            await answer.start(response.status_code, kept)
            async for piece in response.aiter_raw():
                await answer.go_on(piece)
            await answer.end()
        finally:
            await response.aclose()

    async def _body(
        self, receive: Receive, limit: int, count: Callable[[int], None]
    ) -> AsyncIterator[bytes]:
        size, more = 0, True
        while more:
            async with asyncio.timeout(self._limits.stall_s):
                event = await receive()
            if event["type"] == "http.disconnect":
                raise _DisconnectedError
            piece, more = event.get("body", b""), event.get("more_body", False)
            size += len(piece)
            if size > limit:
                raise _RefusedError(413, f"a body of more than {limit} bytes")
            if piece:
                count(len(piece))
                yield piece


class _Answer:
    """The answer to one request, piece by piece."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send, self._stall_s = send, stall_s
        self._started = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def go_on(self, piece: bytes) -> None:
        await self._put({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        await self._put({"type": "http.response.body", "body": last})

    async def refuse(self, status: int, body: bytes = _REFUSED) -> None:
        """Answer with a refusal; an answer that has begun is left unfinished: uvicorn hangs up."""
        if not self._started:
            length = str(len(body)).encode()
            headers = [(b"content-length", length), (b"content-type", b"text/plain")]
            await self.start(status, [*headers, (b"connection", b"close")])
            await self.end(body)

    async def _put(self, event: Message) -> None:
        async with asyncio.timeout(self._stall_s):
            await self._send(event)


def read_node_keys(lines: Iterable[str]) -> dict[bytes, ec.EllipticCurvePublicKey]:
    """The sites' keys by the bytes under which Flower's SuperNode names them.

    Args:
        lines: public keys as OpenSSH writes them, one a line.

    Raises:
        KeyMaterialError: one is no elliptic-curve key.
    """
    keys = {}
    for line in lines:
        try:
            key = serialization.load_ssh_public_key(line.strip().encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise KeyMaterialError(f"{line[:40]!r} is no elliptic-curve key of OpenSSH")
        name = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        keys[name] = key
    return keys


def log_refusal(peer: str, what: str, why: object) -> None:
    """Write down who was refused what, and why."""
    _log.warning("refused %s: %s: %s", peer, what, why)


def _check_target(scope: Scope) -> str:
    """The path asked for, which is one of those that pass."""
    method, path = scope["method"], scope["raw_path"].decode("ascii", "replace")
    if scope["http_version"] != "1.1":
        raise _RefusedError(404, "another version of HTTP")
    if scope["query_string"]:
        raise _RefusedError(404, "a query")
    if path == _HEALTH and method in ("GET", "HEAD"):
        return _HEALTH
    if path in FLEET_ROUTES and method == "POST":
        return str(path)
    raise _RefusedError(404, "not a way through the gateway")


def _check_head(headers: list[tuple[bytes, bytes]], limit: int) -> None:
    names = [name for name, _ in headers]
    if sum(len(name) + len(value) for name, value in headers) > limit:
        raise _RefusedError(431, "too long a head")
    if b"upgrade" in names:
        raise _RefusedError(404, "an upgrade")
    if b"transfer-encoding" in names and b"content-length" in names:
        raise _RefusedError(400, "a body framed in two ways")


def _check_signature(
    headers: list[tuple[bytes, bytes]], keys: Mapping[bytes, ec.EllipticCurvePublicKey]
) -> bytes:
    """Which of the keys signed the request's time, as Flower's SuperNode does.

    How old the signature may be, and whose node the request may speak for, SuperLink checks.
    """
    signed = [[value for name, value in headers if name == n] for n in (_NODE_KEY, _SIGNATURE)]
    times = [value for name, value in headers if name == _SIGNED]
    try:
        (name,), (signature,) = ([base64.b64decode(v, validate=True) for v in s] for s in signed)
        (time,) = times
        keys[name].verify(signature, time, ec.ECDSA(hashes.SHA256()))
    except (KeyError, ValueError, binascii.Error, InvalidSignature):
        raise _RefusedError(401, "not signed by a site's key") from None
    return name


def _check_version(headers: list[tuple[bytes, bytes]]) -> None:
    """Make sure that a site's Flower is of our minor version: SuperLink takes any."""
    ours = _FLOWER.encode().split(b".")[:2]
    for name, told in headers:
        if name == _VERSION and told.split(b".")[:2] != ours:
            theirs = told[:_LONGEST].decode("ascii", "backslashreplace")
            reason = f"Flower {theirs}; the coordinator's is {_FLOWER}"
            refusal = {"code": _OTHER_VERSION, "detail": reason}
            raise _RefusedError(412, reason, body=json.dumps(refusal).encode())


def _kept(headers: list[tuple[bytes, bytes]], limit: int) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on: those Flower reads, and the body's length."""
    kept = [header for header in headers if header[0] in _REQUEST_HEADERS]
    for name, value in headers:
        if name == b"content-length":
            if int(value) > limit:
                raise _RefusedError(413, f"a body of {int(value)} bytes, {limit} are allowed")
            kept.append((name, value))
    return kept


def _printable(path: bytes) -> str:
    cut = path[:_LONGEST].decode("ascii", "backslashreplace")
    return ascii(cut) + ("…" if len(path) > _LONGEST else "")
