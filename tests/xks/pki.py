"""Certificates for tests: an authority, and what it issues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def pem_of(key: PrivateKey, *, pkcs8: bool = True) -> str:
    """Return a private key as PEM."""
    style = serialization.PrivateFormat.PKCS8 if pkcs8 else serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption()).decode()


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the certificates between it and its root."""

    certificate: x509.Certificate
    key: PrivateKey
    between: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> str:
        """PEM, leaf first."""
        return "".join(
            each.public_bytes(serialization.Encoding.PEM).decode()
            for each in (self.certificate, *self.between)
        )

    @property
    def key_pem(self) -> str:
        """PKCS#8."""
        return pem_of(self.key)

    def write(self, path: Path) -> Path:
        """Write chain and key into one file, as HAProxy wants it."""
        path.write_text(self.chain + self.key_pem)
        return path


class Authority:
    """A CA; one below another when `above` is given."""

    def __init__(self, name: str = "Test Root", above: Authority | None = None, days: int = 3650) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        issuer, signer = (above.name, above.key) if above is not None else (self.name, self.key)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        self.between: tuple[x509.Certificate, ...] = (
            () if above is None else (self.certificate, *above.between)
        )

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        *names: str,
        cn: str | None = None,
        key: PrivateKey | None = None,
        use: x509.ObjectIdentifier | None = SERVER,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=90),
        digest: Any = None,
        **usage: bool,
    ) -> Issued:
        """Issue a certificate for these DNS names."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn or (names[0] if names else "nobody"))])
            )
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(**(usage or {"digital_signature": True})), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return Issued(builder.sign(self.key, digest or hashes.SHA256()), key, self.between)

    def sign_request(self, request: str, *, ends: timedelta = timedelta(days=90)) -> Issued:
        """Issue what a CSR asks for; the key stays with who asked."""
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self.name)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + ends)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([SERVER]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(certificate, self.key, self.between)


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})
