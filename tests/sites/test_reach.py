"""What a site learns of what answers at the coordinator's address."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.runtime_version_compatibility import (
    get_runtime_version_incompatibility_exit_message,
)

import coordinator.gateway
import sites.reach
from ppfl.crypto import certificates
from ppfl.crypto.certificates import Issued, create_authority, issue_server
from ppfl.errors import (
    CertificateError,
    ClockError,
    FlowerVersionError,
    KeyAccessError,
    KeyFileError,
    NetworkError,
    UnreachableError,
    UnregisteredError,
)
from ppfl.settings import Connection
from sites.reach import Reached, check_clock, check_coordinator, check_registered, reach
from tests.coordinator.gateway_in_threads import Site, gateway


def _write_server(folder: Path, authority: Issued, *, host: str = "127.0.0.1") -> None:
    server = issue_server(authority, host=host, days=30)
    (folder / "ca.crt").write_text(authority.certificate)
    (folder / "server.crt").write_text(server.certificate)
    (folder / "server.key").write_text(server.key)


@pytest.fixture(scope="module")
def authority() -> Issued:
    return create_authority(days=60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Issued) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("coordinator")
    _write_server(folder, authority)
    with gateway(folder) as site:
        site.link.answer = [b""]
        yield site


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    path.chmod(0o600)


@pytest.fixture
def connection(running: Site, tmp_path: Path) -> Connection:
    _write_key(tmp_path / "supernode.key", running.key)
    return Connection(
        host="127.0.0.1",
        port=running.port,
        ca_certificate=running.folder / "ca.crt",
        node_key=tmp_path / "supernode.key",
    )


def test_a_coordinator_that_takes_this_site(connection: Connection, running: Site) -> None:
    reached = reach(connection)
    assert reached.status == 200
    assert reached.ahead_s is not None
    assert abs(reached.ahead_s) < 5  # which is what a site may be ahead
    assert 29 <= (reached.expires - certificates._now()).days <= 30
    running.link.seen.clear()
    check_coordinator(connection)
    assert [request.path for request in running.link.seen] == [
        b"/health",
        b"/v1/fleet/pull-messages",
    ]


@pytest.mark.parametrize(("off_s", "words"), [(-86400, "behind"), (86400, "ahead of")])
def test_a_clock_that_is_off_by_a_day(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, off_s: float, words: str
) -> None:
    now = sites.reach._now
    monkeypatch.setattr(sites.reach, "_now", lambda: now() + off_s)
    with pytest.raises(ClockError, match=rf"clock is 24 hours {words} the coordinator") as caught:
        check_coordinator(connection)
    assert caught.value.exit_code == 43


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("OFF_S"));
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}
time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
"""
_CHECK = """
import sys
from pathlib import Path
from ppfl.errors import PpflError
from ppfl.settings import Connection
from sites.reach import check_coordinator
try:
    check_coordinator(Connection.model_validate_json(sys.argv[1]))
except PpflError as error:
    sys.exit(f"{error.code}: {error}")
"""


@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("cc")), reason="no compiler that makes a clock"
)
@pytest.mark.parametrize(
    ("off_s", "told"), [(-86400, "24 hours behind"), (40 * 86400, "40 days ahead of")]
)
def test_a_whole_process_whose_clock_is_off(
    connection: Connection, tmp_path: Path, off_s: int, told: str
) -> None:
    """By such a clock the certificate, which is new, is not valid yet, or not any more."""
    source, shim = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, connection.model_dump_json()],
        env=os.environ | {"LD_PRELOAD": str(shim), "OFF_S": str(off_s)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.match(f"clock: this machine's clock is {told} the coordinator", done.stderr)


@pytest.mark.parametrize(
    ("asked", "answered", "ahead_s"),
    [(30, 31, 19), (-5, 15, 0), (9, 40, 0), (-70, -60, -71), (12, 60, 1), (11, 11, 0)],
)
def test_an_answer_that_takes_long_is_no_wrong_clock(
    asked: float, answered: float, ahead_s: float
) -> None:
    assert sites.reach._ahead(asked, answered, "Thu, 01 Jan 1970 00:00:10 GMT") == ahead_s
    assert sites.reach._ahead(asked, answered, "once") is None


@pytest.mark.parametrize(
    ("ahead_s", "well"), [(4.9, True), (5.1, False), (-299, True), (-301, False), (None, True)]
)
def test_clocks_may_differ_by_what_flower_allows(ahead_s: float | None, well: bool) -> None:
    reached = Reached(certificates._now(), ahead_s, 200)
    if well:
        check_clock(reached)
    else:
        with pytest.raises(ClockError):
            check_clock(reached)


def test_a_key_that_nobody_knows(connection: Connection, running: Site) -> None:
    _write_key(connection.node_key, ec.generate_private_key(ec.SECP384R1()))
    running.link.seen.clear()
    with pytest.raises(UnregisteredError, match="does not know this site's key"):
        check_registered(connection)
    assert running.link.seen == []


def test_another_version_of_flower(
    connection: Connection, running: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.gateway, "_FLOWER", "1.2.3")
    running.link.seen.clear()
    with pytest.raises(
        FlowerVersionError, match=r"Flower 1\.\d+\.\d+; the coordinator's is 1\.2\.3"
    ):
        check_registered(connection)
    assert running.link.seen == []


def test_flowers_own_supernode_understands_why_it_is_refused(
    running: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.gateway, "_FLOWER", "1.41.0")
    path = b"/v1/fleet/pull-messages"
    for told, well in ((b"1.41.9", True), (b"1.4.0", False), (b"2.41.0", False), (b"", False)):
        answer = running.ask(running.post(path, headers=b"flwr-package-version: %b\r\n" % told))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 " if well else b"HTTP/1.1 412 ")
        if not well:
            said = get_runtime_version_incompatibility_exit_message(body.decode())
            assert said == f"Flower {told.decode()}; the coordinator's is 1.41.0"


def _expire(authority: Issued, folder: Path, days: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = certificates._now()
        patch.setattr(certificates, "_now", lambda: now + timedelta(days=days))
        _write_server(folder, authority)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, f: _expire(a, f, -40), "has expired; this machine's clock says"),
        (lambda a, f: _expire(a, f, 2), "is not valid yet; this machine's clock says"),
        (lambda a, f: _write_server(f, create_authority(days=9)), "not of this federation's"),
    ],
)
def test_a_certificate_that_is_wrong(
    authority: Issued,
    tmp_path: Path,
    spoil: Callable[[Issued, Path], None],
    message: str,
) -> None:
    spoil(authority, tmp_path)
    with gateway(tmp_path) as site:
        trusted = tmp_path / "trusted.crt"
        trusted.write_text(authority.certificate)
        connection = Connection(host="127.0.0.1", port=site.port, ca_certificate=trusted)
        with pytest.raises(CertificateError, match=message) as caught:
            reach(connection)
    assert caught.value.exit_code == 42
    assert caught.value.hint


def test_a_certificate_for_another_host(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest: look_up("127.0.0.1", *rest))
    with pytest.raises(CertificateError, match="is for another host"):
        reach(connection.model_copy(update={"host": "ppfl.example.org"}))


def test_an_authority_that_is_none(connection: Connection, tmp_path: Path) -> None:
    spoilt = connection.model_copy(update={"ca_certificate": tmp_path / "ca.crt"})
    with pytest.raises(KeyFileError, match="no such key file"):
        reach(spoilt)
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(CertificateError, match="holds no certificate"):
        reach(spoilt)


def test_nobody_or_somebody_else_at_the_address(connection: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        elsewhere = connection.model_copy(update={"port": port})

        def answer() -> None:
            peer, _ = listener.accept()
            peer.recv(1000)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnreachableError, match="no coordinator of ppfl"):
            reach(elsewhere)
        thread.join()
    for check in (reach, check_registered):
        with pytest.raises(UnreachableError) as caught:
            check(elsewhere)
        assert isinstance(caught.value, NetworkError)
    with pytest.raises(UnreachableError, match=r"no-such-host\.invalid:\d+ cannot be reached"):
        reach(connection.model_copy(update={"host": "no-such-host.invalid"}))


def test_a_superlink_that_is_away(authority: Issued, tmp_path: Path) -> None:
    _write_server(tmp_path, authority)
    with gateway(tmp_path) as site:
        _write_key(tmp_path / "supernode.key", site.key)
        connection = Connection(
            host="127.0.0.1",
            port=site.port,
            ca_certificate=tmp_path / "ca.crt",
            node_key=tmp_path / "supernode.key",
        )
        site.stop_link()
        reached = reach(connection)
        assert (reached.status, reached.ahead_s is None) == (502, False)
        with pytest.raises(UnreachableError, match="SuperLink behind it does not"):
            check_coordinator(connection)


def test_a_node_key_that_cannot_be_used(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.node_key.chmod(0o640)
    with pytest.raises(KeyAccessError, match="others than its owner"):
        check_registered(connection)
    connection.node_key.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(KeyAccessError, match="belongs to") as caught:
            check_registered(connection)
    assert caught.value.exit_code == 23
    connection.node_key.write_text("no key")
    with pytest.raises(KeyFileError, match="damaged"):
        check_registered(connection)
