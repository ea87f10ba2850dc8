"""Whether a certificate can serve the XKS endpoint, and whether AWS KMS will accept it.

XKS proxy API specification 1.0.3, "Transport": AWS KMS verifies the chain against its own list of public
CAs, and that the certificate is for the endpoint's host.  What would keep the endpoint from serving is an
error; what AWS alone would refuse is a warning, because a simulator or a front may be the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from xks import aws_authorities

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
MAX_CHAIN = 10
MAX_PEM_CHARACTERS = 64 * 1024
SOON = timedelta(days=30)
_CURVES = ("secp256r1", "secp384r1")
_HASHES = ("sha256", "sha384", "sha512")


@dataclass(frozen=True)
class Problem:
    """What is wrong: ``field`` is chain or private_key; ``cure`` says what to do."""

    field: str
    message: str
    cure: str


@dataclass
class Report:
    """What was found of a chain and its key."""

    chain: list[x509.Certificate] = field(default_factory=list)
    key: PrivateKey | None = None
    aws_trusted: bool = False
    errors: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def leaf(self) -> x509.Certificate:
        """The endpoint's own certificate."""
        return self.chain[0]

    @property
    def usable_key(self) -> PrivateKey:
        """The private key of a report without errors. Raises ValueError where there is none."""
        if self.key is None:
            raise ValueError("there is no private key")
        return self.key

    def wrong(self, message: str, cure: str, *, where: str = "chain") -> None:
        """Note an error."""
        self.errors.append(Problem(where, message, cure))


def examine(chain_pem: str, key_pem: bytes, host: str, *, now: datetime | None = None) -> Report:
    """Look at a chain and its key for an endpoint of this host. ``now`` is for tests."""
    now = now or datetime.now(UTC)
    report = Report()
    _read_chain(report, chain_pem)
    report.key = read_key(report, key_pem)
    if not report.chain:
        return report
    leaf = report.leaf
    _check_order(report)
    if report.key is not None and _public(report.key.public_key()) != _public(leaf.public_key()):
        report.wrong(
            "The private key does not belong to the certificate.",
            "Give the key that the certificate was requested with, and the leaf first in the chain.",
            where="private_key",
        )
    _check_host(report, host)
    _check_dates(report, now)
    _check_usage(report)
    for each in report.chain:
        _check_algorithms(report, each)
    if not report.errors:
        _check_trust(report, host, now)
    return report


def read_key(report: Report, key_pem: bytes) -> PrivateKey | None:
    """Return the private key, its kind being one that the endpoint can serve with; else note an error."""
    if b"ENCRYPTED" in key_pem:
        report.wrong(
            "The private key is encrypted.",
            "Decrypt it first (openssl pkey); it is stored encrypted under the root key.",
            where="private_key",
        )
        return None
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        report.wrong("This is no private key in PEM.", "Give PKCS#8 or PKCS#1 PEM.", where="private_key")
        return None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    report.wrong(
        "The endpoint serves RSA keys of 2,048 bits and more, and keys on the curves P-256 and P-384.",
        "Make another key, or have one made here: keystead xks certificate request.",
        where="private_key",
    )
    return None


def read_certificates(pem: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM text. Raises ValueError."""
    if len(pem) > MAX_PEM_CHARACTERS:
        raise ValueError("too long")
    return x509.load_pem_x509_certificates(pem.encode())


def pem_of(chain: Iterable[x509.Certificate]) -> str:
    """Return PEM, in this order."""
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode("ascii") for each in chain)


def fits(name: str, host: str) -> bool:
    """Whether a name of a certificate, perhaps with a wildcard, is for this host (RFC 6125, 6.4.3)."""
    name, host = name.lower().rstrip("."), host.lower().rstrip(".")
    if name.startswith("*."):
        first, _, rest = host.partition(".")
        return bool(first) and rest == name[2:]
    return name == host


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's CN, "" when it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def alternative_names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names that the certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(extension.get_values_for_type(x509.DNSName))


def describe_key(key: PrivateKey) -> str:
    """RSA 3072, ECDSA P-256 and the like."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return f"ECDSA {'P-256' if key.curve.name == 'secp256r1' else 'P-384'}"


def _public(key: object) -> bytes:
    public: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def _read_chain(report: Report, pem: str) -> None:
    try:
        report.chain = read_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        report.wrong("This is no chain of certificates in PEM.", "Give -----BEGIN CERTIFICATE----- blocks.")
        return
    if len(report.chain) > MAX_CHAIN:
        report.wrong(
            f"A chain of {len(report.chain)} certificates is too long.", "Leave out what is not needed."
        )


def _is_issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it is a CA's (RFC 5280, 4.2.1.9)."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _check_order(report: Report) -> None:
    chain = report.chain
    if is_authority(chain[0]):
        report.wrong(
            "The first certificate is a CA's.", "Put the endpoint's own certificate first, then its issuers."
        )
        return
    for below, above in pairwise(chain):
        if not _is_issued(below, above):
            report.wrong(
                f"{below.subject.rfc4514_string()} was not issued by {above.subject.rfc4514_string()},"
                " which follows it.",
                "Order the chain: the endpoint's certificate, its issuer, that one's issuer.",
            )
            return


def _check_host(report: Report, host: str) -> None:
    names = alternative_names(report.leaf)
    if not any(fits(name, host) for name in names):
        said = ", ".join(names) or "no host name at all"
        report.wrong(
            f"The certificate is for {said}, not for the endpoint's host {host}.",
            f"Have one issued with {host} (or a wildcard of its domain) as subject alternative name, or change"
            " KEYSTEAD_XKS_PUBLIC_ENDPOINT.",
        )
    elif not fits(common_name(report.leaf), host):
        report.warnings.append(
            f"The subject's CN is {common_name(report.leaf) or 'missing'}, not {host}: AWS KMS compares the CN and will"
            " refuse the endpoint (XKS_PROXY_INVALID_TLS_CONFIGURATION)."
        )


def _check_dates(report: Report, now: datetime) -> None:
    for each in report.chain:
        who = each.subject.rfc4514_string()
        if each.not_valid_after_utc <= now:
            report.wrong(f"{who} ended at {each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC.", "Have it renewed.")
        elif each.not_valid_before_utc > now:
            report.wrong(
                f"{who} begins only at {each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC.",
                "Wait, or correct this machine's clock.",
            )
        elif each.not_valid_after_utc - now < SOON:
            report.warnings.append(f"{who} ends already at {each.not_valid_after_utc:%Y-%m-%d}.")


def _check_usage(report: Report) -> None:
    extensions = report.leaf.extensions
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature:
            report.wrong(
                "Its key usage does not include digitalSignature, which TLS needs.",
                "Have a certificate issued for a TLS server.",
            )
    except x509.ExtensionNotFound:
        pass
    try:
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            report.wrong(
                "Its extended key usage does not include serverAuth.",
                "Have a certificate issued for a TLS server.",
            )
    except x509.ExtensionNotFound:
        report.warnings.append("It has no extended key usage; certificates of public CAs name serverAuth.")


def _check_algorithms(report: Report, certificate: x509.Certificate) -> None:
    who = certificate.subject.rfc4514_string()
    digest = certificate.signature_hash_algorithm
    if digest is None or digest.name not in _HASHES:
        if certificate.issuer == certificate.subject:
            return  # nobody verifies a root's signature of itself
        name = digest.name.upper() if digest is not None else "an algorithm without a hash"
        report.wrong(f"{who} is signed with {name}.", "Have it signed with SHA-256 or better.")
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        report.wrong(f"{who} has an RSA key of {key.key_size} bits.", "2,048 bits are the least.")


def _check_trust(report: Report, host: str, now: datetime) -> None:
    if _leads_to(aws_authorities.trusted_roots(), report.chain, host, now):
        report.aws_trusted = True
        return
    if report.chain[-1].fingerprint(hashes.SHA256()).hex() in aws_authorities.NAMES:
        report.aws_trusted = True
        return
    report.warnings.append(
        "The chain does not lead to a CA that AWS KMS trusts (list of"
        f" {aws_authorities.AS_OF}): AWS will refuse the endpoint, unless a front with a public certificate"
        " stands before it. The bundled simulator takes it when it is given the CA. Is an intermediate certificate missing?"
    )


def _leads_to(
    roots: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], host: str, now: datetime
) -> bool:
    if not roots:
        return False
    verifier = PolicyBuilder().store(Store(list(roots))).time(now).build_server_verifier(x509.DNSName(host))
    try:
        verifier.verify(chain[0], list(chain[1:]))
    except VerificationError:
        return False
    return True
