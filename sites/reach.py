"""What answers at the coordinator's address, seen from a site, before it sends anything of a study.

Flower's SuperNode meets the same obstacles, but only its log would tell, and not always why: it
gets 401 for a wrong clock as for a key that nobody knows.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from importlib.metadata import version

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from ppfl.crypto.textfile import read_key_text, require_private
from ppfl.errors import (
    CertificateError,
    ClockError,
    FlowerVersionError,
    KeyFileError,
    UnreachableError,
    UnregisteredError,
)
from ppfl.settings import Connection

_PATIENCE_S = 10.0
_DATE_S = 1.0  # a Date header is in whole seconds, and up to a second old: true to this, half-way
_NOT_YET_VALID, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)  # OpenSSL's X509_V_ERR_…
_AT_ANY_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME


@dataclass(frozen=True, slots=True)
class Reached:
    """A coordinator that answered with a certificate of the federation's authority.

    ``expires`` is the certificate's end. ``ahead_s`` is by how many seconds this machine's clock
    is ahead of the coordinator's, within about one, and at least if the answer took long; it is
    None if the answer told no time.
    ``status`` is what HTTP said of SuperLink's health, 200 if it runs.
    """

    expires: datetime
    ahead_s: float | None
    status: int


def reach(connection: Connection) -> Reached:
    """Ask the coordinator how it is, over TLS with the federation's own authority.

    Raises:
        UnreachableError: nobody answers, or something that is no coordinator.
        ClockError: by this machine's clock the certificate is not valid now, and that clock is
            further from the coordinator's than Flower allows.
        CertificateError: the certificate is not the authority's, or not valid now, or names
            another host.
        KeyFileError: the authority's certificate is missing.
    """
    trusted = _trusted(connection)
    with _telling(connection):
        try:
            return _ask(connection, trusted)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
                # which of the two is wrong, the coordinator's clock tells; this only ends in errors
                trusted.verify_flags |= _AT_ANY_TIME
                check_clock(_ask(connection, trusted))
            raise


def check_clock(reached: Reached) -> None:
    """Check that Flower will take what this machine signs.

    Raises:
        ClockError: the clocks are further apart than Flower allows.
    """
    ahead_s = reached.ahead_s
    if ahead_s is None or -TIMESTAMP_TOLERANCE < ahead_s < SYSTEM_TIME_TOLERANCE:
        return
    raise ClockError(
        f"this machine's clock is {tell_clock(ahead_s)}; it may be {SYSTEM_TIME_TOLERANCE} "
        f"seconds ahead and {TIMESTAMP_TOLERANCE // 60} minutes behind",
        hint=f"set the clock that is wrong, with NTP; this one says {_utc(_now())}",
    )


def check_registered(connection: Connection) -> None:
    """Make sure that the coordinator takes requests which this site signs.

    It is asked for messages of no site, which it has none of: nothing changes by it.

    Raises:
        UnregisteredError: it does not know this site's key.
        FlowerVersionError: it runs another version of Flower.
        UnreachableError: it does not answer, or its SuperLink does not.
        KeyFileError: the key is missing or damaged, or others can read it.
    """
    key = _node_key(connection)
    with FleetHttpClient.from_server_address(
        connection.address,
        False,
        read_key_text(connection.ca_certificate).encode(),
        [NodeAuthHttpInterceptor(key, key.public_key()), _TellVersion()],
    ) as client:
        try:
            client.PullMessages(PullMessagesRequest())
        except httpx.HTTPStatusError as error:
            _check_refusal(connection, error.response)
        except httpx.TransportError as error:
            raise UnreachableError(
                f"{connection.address} hung up: {type(error).__name__}"
            ) from None


def check_coordinator(connection: Connection) -> None:
    """Make all of the checks above.

    Raises:
        NetworkError: as they do.
        KeyMaterialError: as they do.
    """
    check_clock(reach(connection))
    check_registered(connection)


def tell_clock(ahead_s: float) -> str:
    """How far this machine's clock is off, in words.

    >>> tell_clock(-7.2)
    '7 s behind the coordinator'
    >>> tell_clock(86400.2)
    '24 hours ahead of the coordinator'
    """
    where = "ahead of" if ahead_s > 0 else "behind"
    far, span = abs(ahead_s), f"{abs(ahead_s):.0f} s"
    for unit, seconds in (("minutes", 60), ("hours", 3600), ("days", 86400)):
        if far >= 2 * seconds:
            span = f"{far / seconds:.3g} {unit}"
    return f"{span} {where} the coordinator"


class _TellVersion:
    """Says which Flower this is, as its SuperNode does; a refusal does not end this process."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        ours = RuntimeVersionMetadata.from_local_component("SuperNode")
        context.request.headers.update(dict(ours.as_metadata()))
        return call_next(context)


def _ask(connection: Connection, trusted: ssl.SSLContext) -> Reached:
    peer = HTTPSConnection(connection.host, connection.port, timeout=_PATIENCE_S, context=trusted)
    try:
        peer.connect()
        shown = x509.load_der_x509_certificate(peer.sock.getpeercert(binary_form=True) or b"")
        asked = _now()
        peer.request("GET", "/health")
        answer = peer.getresponse()
        answered = _now()
        answer.read()
    finally:
        peer.close()
    return Reached(
        expires=shown.not_valid_after_utc,
        ahead_s=_ahead(asked, answered, answer.getheader("date")),
        status=answer.status,
    )


def _trusted(connection: Connection) -> ssl.SSLContext:
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trusted.load_verify_locations(cadata=read_key_text(connection.ca_certificate))
    except ssl.SSLError:
        raise CertificateError(
            f"{connection.ca_certificate}: holds no certificate, or is damaged"
        ) from None
    return trusted


@contextmanager
def _telling(connection: Connection) -> Iterator[None]:
    """Say in an error of our own what kept the coordinator from being reached."""
    where = connection.address
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise _certificate_error(where, error) from None
    except (ssl.SSLError, HTTPException):
        raise UnreachableError(
            f"{where}: what answers there is no coordinator of ppfl",
            hint="compare host and port in site.toml with the coordinator; a proxy may answer",
        ) from None
    except OSError as error:
        reason = error.strerror or "no answer in time"
        raise UnreachableError(
            f"{where} cannot be reached: {reason}",
            hint="does `ppfl coordinator run` run there, and does every firewall on the way let "
            f"port {connection.port} through?",
        ) from None


def _certificate_error(where: str, error: ssl.SSLCertVerificationError) -> CertificateError:
    now = _utc(_now())
    if error.verify_code == _EXPIRED:
        return CertificateError(
            f"{where}: its certificate has expired; this machine's clock says {now}",
            hint="if the clock is right, the coordinator: ppfl coordinator renew",
        )
    if error.verify_code == _NOT_YET_VALID:
        return CertificateError(
            f"{where}: its certificate is not valid yet; this machine's clock says {now}",
            hint="one of the two clocks is wrong: set it",
        )
    if error.verify_code in _OTHER_NAMES:
        return CertificateError(
            f"{where}: its certificate is for another host",
            hint="host in site.toml and in coordinator.toml must be one; then the coordinator: "
            "ppfl coordinator renew",
        )
    return CertificateError(
        f"{where}: its certificate is not of this federation's authority",
        hint="someone may stand in for the coordinator, or a firewall opens TLS: ask the "
        "coordinator by telephone",
    )


def _now() -> float:
    return time.time()


def _ahead(asked: float, answered: float, date: str | None) -> float | None:
    """How far this clock is ahead of the one that told the date at some moment between the two.

    Of what is possible it is the least: a machine that is busy has no wrong clock.
    """
    try:
        theirs = parsedate_to_datetime(date or "").timestamp() + _DATE_S
    except ValueError:
        return None
    return max(asked - theirs, min(answered - theirs, 0.0))


def _utc(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _node_key(connection: Connection) -> ec.EllipticCurvePrivateKey:
    path = connection.node_key
    require_private(path)
    try:
        key = load_ssh_private_key(read_key_text(path).encode(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: holds no private key of a curve, or is damaged")
    return key


def _check_refusal(connection: Connection, answer: httpx.Response) -> None:
    """Tell the gateway's refusals from SuperLink's, which refuses a request of no site."""
    where = connection.address
    if answer.status_code == 412:
        told = answer.json().get("detail", "") if answer.text.startswith("{") else ""
        raise FlowerVersionError(
            f"{where} does not take this site's Flower: {told[:200] or version('flwr')}",
            hint="the same version of ppfl and of Flower is needed everywhere",
        )
    if answer.status_code == 401 and answer.text == "refused\n":
        raise UnregisteredError(
            f"{where}: the coordinator does not know this site's key, {connection.node_key}",
            hint="the coordinator needs the card of this very identity: compare the fingerprints "
            "of `ppfl keys show` at both ends; another card needs another ceremony",
        )
    if answer.status_code in (502, 503, 504):
        raise UnreachableError(
            f"{where}: the coordinator's gateway answers, but SuperLink behind it does not, or "
            f"both are busy: {answer.status_code}",
            hint="the coordinator: ppfl coordinator status",
        )
