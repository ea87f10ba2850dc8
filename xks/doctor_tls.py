"""What the doctor looks at below HTTP: name, port, TLS, certificate. Sends nothing but handshakes."""

from __future__ import annotations

import _ssl
import socket
import ssl
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from xks import aws_authorities
from xks.doctor_findings import Finding, Severity, finding

HANDSHAKE_S: Final = 1.5
"""AWS KMS gives up after 250 ms in all; who takes longer than this is as good as not there."""
SOON: Final = timedelta(days=30)
VERY_SOON: Final = timedelta(days=7)


class Suite(NamedTuple):
    """One cipher suite of AWS's list: its name, version, OpenSSL's name, and the kind of key it needs (None: any)."""

    name: str
    version: ssl.TLSVersion
    openssl: str
    key: type | None


# XKS Proxy API specification 1.0.3, "Transport".
SUITES: Final = (
    Suite("TLS_AES_256_GCM_SHA384", ssl.TLSVersion.TLSv1_3, "TLS_AES_256_GCM_SHA384", None),
    Suite("TLS_CHACHA20_POLY1305_SHA256", ssl.TLSVersion.TLSv1_3, "TLS_CHACHA20_POLY1305_SHA256", None),
    Suite(
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        ssl.TLSVersion.TLSv1_2,
        "ECDHE-RSA-AES256-GCM-SHA384",
        rsa.RSAPublicKey,
    ),
    Suite(
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        ssl.TLSVersion.TLSv1_2,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        ec.EllipticCurvePublicKey,
    ),
)
WEAK: Final = (("TLS 1.0", ssl.TLSVersion.TLSv1), ("TLS 1.1", ssl.TLSVersion.TLSv1_1))


@dataclass(frozen=True)
class Place:
    """Where the endpoint is reached: its host name, and the address and port that stand for it."""

    host: str
    address: str
    port: int


@dataclass(frozen=True)
class Presented:
    """What a handshake showed."""

    version: str
    cipher: str
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The endpoint's own certificate."""
        return self.chain[0]


@dataclass(frozen=True)
class TlsSeen:
    """The outcome for what comes after: ``presented`` is None when there is no TLS."""

    findings: list[Finding]
    presented: Presented | None
    trusted: bool
    """Whether the certificate is for this host and of an authority that is known, so that a signature may be sent."""


def shake_hands(
    place: Place,
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str = "",
) -> Presented:
    """Connect and let the endpoint show its certificates, whatever they are. Raises OSError (ssl.SSLError)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is judged by judge_certificate, which says what is wrong with it. Nothing is sent over this.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = lowest
        context.maximum_version = highest
    if ciphers:
        context.set_ciphers(ciphers)
    with (
        socket.create_connection((place.address, place.port), timeout=HANDSHAKE_S) as plain,
        context.wrap_socket(plain, server_hostname=place.host) as secured,
    ):
        cipher = secured.cipher()
        return Presented(secured.version() or "", cipher[0] if cipher else "", _chain(secured))


def _chain(secured: ssl.SSLSocket) -> tuple[x509.Certificate, ...]:
    public = getattr(secured, "get_unverified_chain", None)  # from Python 3.13 on
    if public is not None:
        encoded = public() or []
    else:
        inner = secured._sslobj  # type: ignore[attr-defined]
        encoded = [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]
    return tuple(x509.load_der_x509_certificate(each) for each in encoded)


def look_at_tls(
    place: Place, roots: Sequence[x509.Certificate] | None, now: datetime | None = None
) -> TlsSeen:
    """Look at everything below HTTP. ``roots``: private authorities to trust instead of AWS's list."""
    now = now or datetime.now(UTC)
    try:
        presented = shake_hands(place)
    except ssl.SSLError as error:
        return TlsSeen([_no_tls(place, error)], None, False)
    except TimeoutError:
        return TlsSeen(
            [
                finding(
                    "port",
                    Severity.ERROR,
                    f"Nothing answers at port {place.port} of {place.host} ({place.address}) within {HANDSHAKE_S:g} s.",
                    "A firewall or security group drops it: let port 443 in, and see that the balancer has healthy nodes.",
                )
            ],
            None,
            False,
        )
    except OSError as error:
        return TlsSeen(
            [
                finding(
                    "port",
                    Severity.ERROR,
                    f"Port {place.port} of {place.host} ({place.address}) is closed ({error.strerror or type(error).__name__}).",
                    "Start the XKS workers (keystead xks serve) or the balancer before them, and let it listen on 443.",
                )
            ],
            None,
            False,
        )
    findings = [finding("port", Severity.OK, f"Port {place.port} of {place.address} answers.")]
    if not presented.chain:
        findings.append(
            finding(
                "chain", Severity.ERROR, "The endpoint shows no certificate.", "Install one on the endpoint."
            )
        )
        return TlsSeen(findings, None, False)
    findings += _look_at_suites(place, presented)
    judged = list(judge_certificate(presented.chain, place.host, roots, now))
    trusted = not any(f.severity is Severity.ERROR for f in judged)
    return TlsSeen([*findings, *judged], presented, trusted)


def _no_tls(place: Place, error: ssl.SSLError) -> Finding:
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    return finding(
        "tls-version",
        Severity.ERROR,
        f"No TLS 1.2 or 1.3 with {place.host}: {reason}.",
        "Let the endpoint, or the balancer that ends TLS, speak TLS 1.2 and 1.3 on port 443.",
    )


def _try(place: Place, version: ssl.TLSVersion, ciphers: str = "") -> Presented | None:
    try:
        return shake_hands(place, version, version, ciphers)
    except OSError:
        return None


def _look_at_suites(place: Place, presented: Presented) -> Iterator[Finding]:
    def attempt(suite: Suite) -> bool:
        # Python cannot choose among TLS 1.3's suites: what the endpoint prefers shows in the first handshake.
        if suite.version is ssl.TLSVersion.TLSv1_3:
            seen = _try(place, suite.version)
            return seen is not None and seen.cipher == suite.openssl
        return _try(place, suite.version, suite.openssl) is not None

    with ThreadPoolExecutor(len(SUITES) + len(WEAK)) as pool:
        taken = list(pool.map(attempt, SUITES))
        # SECLEVEL=0: our own library would not offer them otherwise.
        weak = list(pool.map(lambda each: _try(place, each[1], "ALL:@SECLEVEL=0"), WEAK))
    yield finding("tls-version", Severity.OK, f"It speaks {presented.version}.")
    names = [suite.name for suite, was_taken in zip(SUITES, taken, strict=True) if was_taken]
    if names:
        left = [
            suite.name
            for suite, was_taken in zip(SUITES, taken, strict=True)
            if not was_taken and suite.version is ssl.TLSVersion.TLSv1_2
            and (suite.key is None or isinstance(presented.leaf.public_key(), suite.key))
        ]  # fmt: skip
        said = f"Of AWS's cipher suites it takes {', '.join(names)}."
        yield finding(
            "tls-ciphers",
            Severity.INFO if left else Severity.OK,
            said
            + (f" It does not take {', '.join(left)}, which its certificate would allow." if left else ""),
            "Nothing must be done: one is enough. To allow TLS 1.2 besides, add that suite." if left else "",
        )
    else:
        yield finding(
            "tls-ciphers",
            Severity.ERROR,
            f"It takes none of AWS's cipher suites (it chose {presented.cipher}).",
            f"Allow at least one of {', '.join(suite.name for suite in SUITES)}.",
        )
    old = [name for (name, _), seen in zip(WEAK, weak, strict=True) if seen is not None]
    if old:
        yield finding(
            "tls-weak",
            Severity.WARN,
            f"It still speaks {' and '.join(old)}.",
            "Set the lowest version to TLS 1.2 on the endpoint or the balancer that ends TLS.",
        )
    else:
        yield finding("tls-weak", Severity.OK, "It refuses TLS 1.0 and 1.1.")


def judge_certificate(
    chain: Sequence[x509.Certificate],
    host: str,
    roots: Sequence[x509.Certificate] | None,
    now: datetime,
) -> Iterator[Finding]:
    """Judge what the endpoint shows as AWS KMS does: names, dates, chain. ``roots``: see look_at_tls."""
    leaf = chain[0]
    yield _judge_name(leaf, host)
    yield _judge_dates(leaf, now)
    # The dates have a finding of their own, so the chain is judged at a time when the certificate was good.
    at = min(max(now, leaf.not_valid_before_utc), leaf.not_valid_after_utc)
    yield _judge_chain(chain, host, roots, at)


def names_of(leaf: x509.Certificate) -> tuple[list[str], list[str]]:
    """The common names and the DNS names of a certificate, in small letters."""
    common = [str(each.value).lower() for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        further = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return common, []
    return common, [name.lower() for name in further.get_values_for_type(x509.DNSName)]


def covers(pattern: str, host: str) -> bool:
    """Whether a certificate's name is the host or a wildcard for its first label."""
    if pattern.startswith("*."):
        return "." in host and pattern[2:] == host.partition(".")[2]
    return pattern == host


def _judge_name(leaf: x509.Certificate, host: str) -> Finding:
    common, further = names_of(leaf)
    shown = ", ".join([*common, *(name for name in further if name not in common)]) or "nothing"
    by_common = any(covers(name, host) for name in common)
    by_further = any(covers(name, host) for name in further)
    if by_common and by_further:
        return finding("name", Severity.OK, f"The certificate is for {shown}, which covers {host}.")
    if by_further:
        return finding(
            "name",
            Severity.WARN,
            f"The certificate's common name is {', '.join(common) or 'empty'}; only its alternative names cover {host}.",
            f"Ask the authority for a certificate whose common name is {host}: AWS documents the common name.",
        )
    if by_common:
        return finding(
            "name",
            Severity.WARN,
            f"The certificate's common name covers {host}, but none of its alternative names does.",
            f"Ask the authority for a certificate with {host} among its subject alternative names, too.",
        )
    return finding(
        "name",
        Severity.ERROR,
        f"The certificate is for {shown}, not for {host}.",
        f"Install a certificate for {host} (or *.{host.partition('.')[2]}), or correct the endpoint in AWS.",
    )


def _judge_dates(leaf: x509.Certificate, now: datetime) -> Finding:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    renew = "Renew it and install the new one (docs/runbooks/certificate-change.md)."
    if now < begin:
        return finding(
            "expiry",
            Severity.ERROR,
            f"The certificate is good only from {begin:%Y-%m-%d %H:%M} UTC on.",
            "Install one that is good now, or correct this machine's clock.",
        )
    if now >= end:
        return finding("expiry", Severity.ERROR, f"The certificate ended on {end:%Y-%m-%d %H:%M} UTC.", renew)
    left = end - now
    age = (now - begin).days
    what = f"The certificate is {age} days old and good for {left.days} more days, until {end:%Y-%m-%d}."
    if left <= VERY_SOON:
        return finding("expiry", Severity.ERROR, what, renew)
    # Those that live for a few days only are renewed by a machine: a third of their life is early enough.
    if left <= min(SOON, (end - begin) / 3):
        return finding("expiry", Severity.WARN, what, renew)
    return finding("expiry", Severity.OK, what)


def _judge_chain(
    chain: Sequence[x509.Certificate], host: str, roots: Sequence[x509.Certificate] | None, at: datetime
) -> Finding:
    private = roots is not None
    known = aws_authorities.trusted_roots() if roots is None else roots
    common, further = names_of(chain[0])
    # The name has a finding of its own: the chain is judged for a name that the certificate has.
    name = next((n for n in [*further, *common] if "*" not in n), None)
    if name is None:
        name = next((f"x{n[1:]}" for n in [*further, *common] if n.startswith("*.")), host)
    source = f"AWS's list of {aws_authorities.AS_OF}"
    try:
        verifier = (
            PolicyBuilder().store(Store(list(known))).time(at).build_server_verifier(x509.DNSName(name))
        )
        verified = verifier.verify(chain[0], list(chain[1:]))
    except (VerificationError, ValueError) as error:
        if private and _issued_by_one_of(chain, known):
            return _private(chain)
        issuer = chain[-1].issuer.rfc4514_string()
        lone = len(chain) == 1 and chain[0].issuer != chain[0].subject
        return finding(
            "chain",
            Severity.ERROR,
            f"The chain does not lead to {'the private authority of this installation' if private else source}"
            f" (it ends at {issuer}): {_first(error)}.",
            "Install the certificate with its intermediate certificates: the endpoint shows the leaf alone."
            if lone
            else "Get a certificate from a public authority that AWS trusts"
            f" ({aws_authorities.SOURCE}), and install it with its intermediate certificates.",
        )
    if private:
        return _private(chain)
    root = verified[-1]
    return finding(
        "chain",
        Severity.OK,
        f"The chain leads to {aws_authorities.NAMES[aws_authorities.fingerprint(root)]}, on {source}.",
    )


def _issued_by_one_of(chain: Sequence[x509.Certificate], known: Sequence[x509.Certificate]) -> bool:
    """Whether a private authority, which need not keep the rules for public ones, signed the chain's end."""
    for authority in known:
        if chain[-1] == authority:
            continue
        try:
            chain[0].verify_directly_issued_by(authority)
        except Exception:  # noqa: S112 - any failure means: not by this one
            continue
        return True
    return any(chain[0] == authority for authority in known)


def _private(chain: Sequence[x509.Certificate]) -> Finding:
    return finding(
        "chain",
        Severity.INFO,
        f"The certificate is of a private authority ({chain[0].issuer.rfc4514_string()}), which the bundled simulator"
        " trusts and AWS does not.",
        "For AWS itself install a certificate of a public authority.",
    )


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
