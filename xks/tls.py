"""The certificate that the endpoint serves with when none is given: issued by a private CA of ours.

For a laptop, tests and the bundled simulator; AWS itself wants a certificate from a public CA (XKS
specification, "Authentication").  CA and certificate live in one folder, made when missing, and the
certificate is made again when it is about to end or does not fit any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_HOSTS = ("xks.keystead.test", "localhost", "127.0.0.1")
"""Names and addresses that the certificate is for; the first is its CN."""
CA_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
"""A certificate with less life left than this is made again, and so is a CA."""

_BACKDATE = timedelta(minutes=5)  # for clients whose clock is a little behind


class CertificateFiles(NamedTuple):
    """Where things are, all PEM; keys are PKCS#8 without a password, mode 0600."""

    ca: Path
    ca_key: Path
    certificate: Path
    key: Path


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def certificate_files(folder: Path) -> CertificateFiles:
    """Return where the files of ``folder`` are, whether they exist or not."""
    return CertificateFiles(
        folder / "ca.pem", folder / "ca-key.pem", folder / "xks.pem", folder / "xks-key.pem"
    )


def ensure_certificate(
    folder: Path, hosts: Sequence[str] = DEFAULT_HOSTS, *, now: datetime | None = None
) -> bool:
    """Make sure that ``folder`` holds a CA and a certificate for ``hosts`` with life left in it.

    Processes that do this at the same time wait for each other.  ``now`` is for tests.

    Returns:
        Whether anything was made anew.

    Raises:
        OSError: the folder cannot be written.
    """
    now = now or datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = certificate_files(folder)
    with _locked(folder):
        authority = _load_authority(files, now)
        if authority is not None and _fits(files, authority, hosts, now):
            return False
        if authority is None:
            authority = _make_authority(now)
            _write(files.ca_key, _key_pem(authority.key), secret=True)
            _write(files.ca, authority.certificate.public_bytes(serialization.Encoding.PEM))
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _issue(authority, key, hosts, now)
        _write(files.key, _key_pem(key), secret=True)
        _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load_authority(files: CertificateFiles, now: datetime) -> _Authority | None:
    """Return the CA on disk, or None when it is missing, unreadable or about to end."""
    try:
        certificate = x509.load_pem_x509_certificate(files.ca.read_bytes())
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return _Authority(certificate, key) if certificate.not_valid_after_utc - now > RENEW_BEFORE else None


def _fits(files: CertificateFiles, authority: _Authority, hosts: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        key.public_key() == certificate.public_key()
        and names == _alternative_names(hosts)
        and certificate.not_valid_after_utc - now > RENEW_BEFORE
    )


def _make_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Keystead private CA {now:%Y-%m-%d}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, key)


def _issue(
    authority: _Authority, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime
) -> x509.Certificate:
    public = key.public_key()
    end = min(now + CERTIFICATE_LIFE, authority.certificate.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(end)
        .add_extension(_alternative_names(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Put ``content`` in place in one step, so that no reader ever sees half of it."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
