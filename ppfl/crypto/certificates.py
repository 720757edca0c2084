"""The federation's own certificate authority, and the coordinator's certificate for TLS.

Sites trust this one authority and no other, so nobody else's certificate, however it was come by,
can stand in for the coordinator's. Keys are ECDSA on P-384, signatures use SHA-384; extensions
follow [RFC 5280, §4.2].

[RFC 5280] D. Cooper et al., "Internet X.509 Public Key Infrastructure Certificate and Certificate
Revocation List (CRL) Profile", 2008.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ppfl.crypto.textfile import read_key_text, require_private
from ppfl.errors import CertificateError, SettingsError

_SLACK = timedelta(hours=1)  # clocks of hospitals differ a little
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.*[a-z])(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str = field(repr=False)


def create_authority(*, days: int) -> Issued:
    """A new authority, valid from an hour ago for so many days; it can issue no other authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("ppfl federation")
    builder = (
        _builder(name, name, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    return _issue(builder, key, signer=key)


def issue_server(authority: Issued, *, host: str, days: int, key: str = "") -> Issued:
    """A certificate for the coordinator's host, and for the names of this machine itself.

    ``key`` is the PEM of a private key that is to be kept; without it, a new one is made.

    Raises:
        SettingsError: ``host`` is no DNS name and no IP address.
        CertificateError: a file of the authority, or the key, is damaged, or the authority's key is
            another's.
    """
    issuer = _load(authority.certificate, where="the authority's certificate")
    signer = _load_key(authority.key, where="the authority's key")
    if signer.public_key() != issuer.public_key():
        raise CertificateError(
            "the authority's key is not the key of its certificate",
            hint="ca.key and ca.crt were made together: put back the key that belongs to it",
        )
    own = _load_key(key, where="the key") if key else ec.generate_private_key(ec.SECP384R1())
    names = [_general_name(each) for each in dict.fromkeys((host, *_ALWAYS))]
    builder = (
        _builder(_name("ppfl coordinator"), issuer.subject, own.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return _issue(builder, own, signer=signer)


def check_authority(text: str, *, where: str) -> x509.Certificate:
    """The authority's certificate, valid now; ``where`` begins error messages.

    Raises:
        CertificateError: it is damaged, no authority's, expired, or not valid yet.
    """
    certificate = _load(text, where=where)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise CertificateError(f"{where}: is not the certificate of an authority")
    _check_time(certificate, where=where, remedy="the federation must be set up anew")
    return certificate


def check_server(certificate: Path, key: Path, *, authority: Path, host: str) -> x509.Certificate:
    """The authority's certificate, after all TLS files were found to fit together and valid now.

    Raises:
        CertificateError: one is damaged, expired, or not valid yet; the authority has not issued
            the certificate; the key is not its key; the host is not in it.
        KeyFileError: a file is missing, or others can read the key.
    """
    issuer = check_authority(read_key_text(authority), where=str(authority))
    server = _load(read_key_text(certificate), where=str(certificate))
    _check_time(server, where=str(certificate), remedy="ppfl coordinator renew")
    try:
        server.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateError(f"{certificate}: was not issued by {authority}") from None
    require_private(key)
    private = _load_key(read_key_text(key), where=str(key))
    if private.public_key() != server.public_key():
        raise CertificateError(f"{key}: is not the key of {certificate}")
    if _general_name(host) not in _names_in(server):
        raise CertificateError(
            f"{certificate}: was not issued for {host}", hint="ppfl coordinator renew"
        )
    return issuer


def read_expiry(path: Path) -> datetime:
    """When the certificate in a file expires, UTC.

    Raises:
        CertificateError: it is damaged.
        KeyFileError: there is no such file.
    """
    return _load(read_key_text(path), where=str(path)).not_valid_after_utc


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, 64 hexadecimal digits, as `openssl x509 -fingerprint` has it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _load(text: str, *, where: str) -> x509.Certificate:
    """The one certificate in a text: who trusts a second one has compared another fingerprint."""
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise CertificateError(f"{where}: holds no certificate, or is damaged") from None
    if len(certificates) != 1:
        raise CertificateError(f"{where}: holds {len(certificates)} certificates instead of one")
    return certificates[0]


def _load_key(text: str, *, where: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{where}: holds no private key of a curve, or is damaged")
    return key


def _check_time(certificate: x509.Certificate, *, where: str, remedy: str) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = _now()
    if now < begin:
        raise CertificateError(
            f"{where}: is valid only from {_date(begin)}; this machine's clock says {_date(now)}",
            hint="the clock of this machine is wrong, or that of the one that made it: set it",
        )
    if now > end:
        raise CertificateError(
            f"{where}: expired on {_date(end)}; this machine's clock says {_date(now)}",
            hint=f"if the clock is right: {remedy}",
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _names_in(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        kind = x509.SubjectAlternativeName
        return list(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return []


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(host):
        raise SettingsError(
            f"{host!r} is no DNS name and no IP address",
            hint="without a port and without https://, such as ppfl.example.org or 10.0.0.7",
        )
    return x509.DNSName(host.lower())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issue(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    *,
    signer: ec.EllipticCurvePrivateKey,
) -> Issued:
    return Issued(
        builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
