"""Signs a certificate request with the CA that a node of the demo made for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

DAYS = 80


def sign_request(request: str, folder: Path) -> str:
    """Return the chain (PEM, leaf first) for a request (PEM), with ca.pem and ca-key.pem of `folder`."""
    asked = x509.load_pem_x509_csr(request.encode())
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(authority.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, critical=False
        )
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    builder = builder.add_extension(issuer, critical=False)
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]  # it is a key that can sign
    return "".join(found.public_bytes(serialization.Encoding.PEM).decode() for found in (signed, authority))
