from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from ppfl.crypto import certificates as module
from ppfl.crypto.certificates import (
    Issued,
    check_authority,
    check_server,
    create_authority,
    issue_server,
)
from ppfl.errors import CertificateError, KeyFileError, SettingsError


@dataclass(frozen=True, slots=True)
class _Files:
    authority: Path
    certificate: Path
    key: Path
    issuer: Issued

    def check(self, host: str = "127.0.0.1") -> None:
        check_server(self.certificate, self.key, authority=self.authority, host=host)


@pytest.fixture
def files(tmp_path: Path) -> _Files:
    authority = create_authority(days=60)
    server = issue_server(authority, host="ppfl.example.org", days=30)
    made = _Files(*(tmp_path / name for name in ("ca.crt", "server.crt", "server.key")), authority)
    made.authority.write_text(authority.certificate)
    made.certificate.write_text(server.certificate)
    made.key.write_text(server.key)
    made.key.chmod(0o600)
    return made


def test_the_authority_s_key_and_the_server_s_are_p_384(files: _Files) -> None:
    for certificate, key in (
        (files.authority.read_bytes(), files.issuer.key.encode()),
        (files.certificate.read_bytes(), files.key.read_bytes()),
    ):
        issued = load_pem_x509_certificate(certificate)
        public = issued.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP384R1)
        assert isinstance(issued.signature_hash_algorithm, SHA384)
        assert load_pem_private_key(key.strip(), None).public_key() == public


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_tls_client_that_knows_the_authority_connects(files: _Files, name: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with server.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(b"ppfl")

    thread = threading.Thread(target=answer)
    thread.start()
    with (
        listener,
        socket.create_connection(listener.getsockname()) as plain,
        client.wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert secure.recv(4) == b"ppfl"
        assert secure.version() == "TLSv1.3"
    thread.join()


@pytest.mark.parametrize(
    "host", ["ppfl.example.org", "PPFL.example.org", "localhost", "127.0.0.1", "::1"]
)
def test_good_files_pass_for_every_name_in_them(files: _Files, host: str) -> None:
    files.check(host)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (31, r"server.crt: expired on"),
        (61, r"ca.crt: expired on"),
        (-1, r"ca.crt: is valid only from .* clock says"),
    ],
)
def test_the_clock_decides(
    files: _Files, monkeypatch: pytest.MonkeyPatch, days: int, message: str
) -> None:
    now = module._now() + timedelta(days=days)
    monkeypatch.setattr(module, "_now", lambda: now)
    with pytest.raises(CertificateError, match=message) as caught:
        files.check()
    assert "clock" in caught.value.hint


def test_files_that_do_not_fit_together_are_refused(files: _Files) -> None:
    with pytest.raises(CertificateError, match=r"was not issued for ppfl\.example\.com"):
        files.check("ppfl.example.com")
    other = create_authority(days=60)
    stranger = issue_server(other, host="ppfl.example.org", days=30)
    good = files.key.read_text()
    files.key.write_text(stranger.key)
    with pytest.raises(CertificateError, match="is not the key of"):
        files.check()
    files.key.write_text(good)
    files.authority.write_text(other.certificate)
    with pytest.raises(CertificateError, match="was not issued by"):
        files.check()


def test_damaged_files_are_named(files: _Files) -> None:
    text = files.certificate.read_text()
    with pytest.raises(CertificateError, match="not the certificate of an authority"):
        check_authority(text, where="ca.crt")
    with pytest.raises(CertificateError, match=r"ca\.crt: holds no certificate"):
        check_authority(text[:200], where="ca.crt")
    files.key.write_text("no key")
    with pytest.raises(CertificateError, match="holds no private key"):
        files.check()
    files.key.chmod(0o644)
    with pytest.raises(KeyFileError, match="others than its owner"):
        files.check()
    with pytest.raises(CertificateError, match="the authority's key"):
        issue_server(Issued(files.issuer.certificate, "x"), host="localhost", days=1)


def test_certificates_without_the_needed_extensions_are_refused(files: _Files) -> None:
    key = load_pem_private_key(files.issuer.key.encode(), None)
    server = load_pem_private_key(files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(server, ec.EllipticCurvePrivateKey)
    name = module._name("ppfl federation")
    bare = module._builder(name, name, server.public_key(), days=1)
    text = module._issue(bare, server, signer=key).certificate
    with pytest.raises(CertificateError, match="not the certificate of an authority"):
        check_authority(text, where="ca.crt")
    files.certificate.write_text(text)
    with pytest.raises(CertificateError, match="was not issued for"):
        files.check()


@pytest.mark.parametrize(
    "host", ["", "https://ppfl.example.org", "a b", "host:9443", "10.0.0.300", "-a.org", "ä.org"]
)
def test_what_is_no_host_is_refused(files: _Files, host: str) -> None:
    with pytest.raises(SettingsError, match="no DNS name and no IP address"):
        issue_server(files.issuer, host=host, days=1)
