"""Verification of AWS Signature Version 4 on XKS requests.

The rules are those of AWS's "Signature Version 4 signing process" for a service other than S3, and
of the XKS proxy API specification, "Authentication" and Appendix A: service kms-xks-proxy, the
caller's SignedHeaders honoured, the hash over the exact bytes of the body.
"""

from __future__ import annotations

import hmac
import os
import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple, Protocol

from xks.errors import AuthenticationFailedException
from xks.keyring import Credential, Credentials, SigningState

SERVICE = "kms-xks-proxy"
ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 300
"""Furthest that x-amz-date may be from our clock, either way, seconds."""
MAX_SIGNED_HEADERS = 64

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +"
    r"Credential=([A-Z2-7]{20,30})/([0-9]{8})/([a-z0-9-]{1,32})/kms-xks-proxy/aws4_request *, *"
    r"SignedHeaders=([^\s,;]+(?:;[^\s,;]+)*) *, *"
    r"Signature=([0-9a-f]{64})"
)
_AMZ_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SPACES = re.compile(" {2,}")
# What KMS and curl sign: known to be sorted, without repeats, and with what must be there.
_USUAL = {text: tuple(text.split(";")) for text in ("host;x-amz-date", "content-type;host;x-amz-date")}
_KMS_SIGNS = _USUAL["host;x-amz-date"]
# Stands in for the secret of an access key id that is not ours, so that it costs the same to refuse.
_DECOY = os.urandom(40)
_NOT_VALID = "the signature or its credential is not valid for this key store"

_HMAC_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Headers(Protocol):
    """The request's headers by lower-case name, as granian's RSGI gives them."""

    def get_all(self, key: str) -> list[str]:
        """Return the values of every header of that name, in order."""


class Authorization(NamedTuple):
    """The parts of an Authorization header."""

    access_key_id: str
    date: str
    region: str
    signed_headers: str
    signature: str


def parse_authorization(value: str) -> Authorization:
    """Take an Authorization header apart, its commas followed by spaces or not.

    Raises:
        AuthenticationFailedException: it is not a SigV4 header for this service.
    """
    match = _AUTHORIZATION.fullmatch(value)
    if match is None:
        raise AuthenticationFailedException(
            "the Authorization header is not a well-formed AWS Signature Version 4 for kms-xks-proxy"
        )
    return Authorization(*match.groups())


@lru_cache(maxsize=8)  # all requests of one second carry the same few
def parse_amz_date(value: str) -> float:
    """Return the instant (seconds since the epoch) of an x-amz-date such as 20260102T030405Z.

    Raises:
        AuthenticationFailedException: another form, or no such instant.
    """
    if _AMZ_DATE.fullmatch(value):
        try:
            return datetime(
                int(value[0:4]), int(value[4:6]), int(value[6:8]),
                int(value[9:11]), int(value[11:13]), int(value[13:15]), tzinfo=UTC,
            ).timestamp()  # fmt: skip
        except ValueError:
            pass
    raise AuthenticationFailedException("x-amz-date is not of the form YYYYMMDDTHHMMSSZ")


def header_names(signed_headers: str) -> tuple[str, ...]:
    """Return the names in SignedHeaders.

    Raises:
        AuthenticationFailedException: not sorted lower-case names without repeats, too many, or
            without host (or, as HTTP/2 clients say, :authority) and x-amz-date.
    """
    usual = _USUAL.get(signed_headers)
    if usual is not None:
        return usual
    names = tuple(signed_headers.split(";"))
    if (
        len(names) > MAX_SIGNED_HEADERS
        or signed_headers != signed_headers.lower()
        or any(first >= second for first, second in pairwise(names))
    ):
        raise AuthenticationFailedException("SignedHeaders must be sorted lower-case names without repeats")
    if "x-amz-date" not in names or not ("host" in names or ":authority" in names):
        raise AuthenticationFailedException("SignedHeaders must contain host and x-amz-date")
    return names


def canonical_value(values: list[str]) -> str:
    """Return a header's values as SigV4 signs them: trimmed, runs of spaces folded, joined by commas."""
    if len(values) == 1 and "  " not in values[0]:
        return values[0].strip()
    return ",".join(_SPACES.sub(" ", value.strip()) for value in values)


def canonical_request(
    method: str,
    path: str,
    names: tuple[str, ...],
    headers: Headers,
    authority: str,
    body: bytes,
) -> str:
    """Return the canonical request of a request without a query string.

    ``path`` must be one whose characters all stand for themselves; ``authority`` is the value of
    ``host`` and ``:authority``.

    Raises:
        AuthenticationFailedException: a signed header is not there.
    """
    if names == _KMS_SIGNS:
        dates = headers.get_all("x-amz-date")
        if not dates:
            raise AuthenticationFailedException("a header named in SignedHeaders is missing")
        return (
            f"{method}\n{path}\n\nhost:{authority}\nx-amz-date:{canonical_value(dates)}\n\n"
            f"host;x-amz-date\n{sha256(body).hexdigest()}"
        )
    lines = [method, path, ""]
    for name in names:
        if name in ("host", ":authority"):
            value = authority
        else:
            values = headers.get_all(name)
            if not values:
                raise AuthenticationFailedException("a header named in SignedHeaders is missing")
            value = canonical_value(values)
        lines.append(f"{name}:{value}")
    lines += ["", ";".join(names), sha256(body).hexdigest()]
    return "\n".join(lines)


def string_to_sign(amz_date: str, scope: str, canonical: str) -> bytes:
    """Return what is signed; ``scope`` is date/region/service/aws4_request."""
    digest = sha256(canonical.encode()).hexdigest()
    return f"{ALGORITHM}\n{amz_date}\n{scope}\n{digest}".encode()


def derive_signing_key(secret: bytes, date: str, region: str, service: str = SERVICE) -> bytes:
    """Return the 32-byte signing key of a secret for one day (yyyymmdd), region and service."""
    key = b"AWS4" + secret
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def one_header(headers: Headers, name: str) -> str:
    """Return the value of a header that must be there exactly once.

    Raises:
        AuthenticationFailedException: it is not there, or more than once.
    """
    values = headers.get_all(name)
    if len(values) != 1:
        raise AuthenticationFailedException(f"there must be exactly one {name} header")
    return values[0]


class Verified(NamedTuple):
    """A request's proven sender."""

    credential: Credential
    region: str


def _signing_state(
    credential: Credential, date: str, region: str, names: tuple[str, ...], key: bytes
) -> SigningState:
    """Return HMAC-SHA-256 (RFC 2104) with ``key``, 32 bytes, taken in."""
    block = key.ljust(_HMAC_BLOCK, b"\0")
    return SigningState(
        credential, date, region, names, sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))
    )


def verify(
    credentials: Credentials,
    *,
    method: str,
    path: str,
    headers: Headers,
    authority: str | None,
    body: bytes,
    now: float,
) -> Verified:
    """Verify a request's signature against the live credentials of its path prefix.

    ``authority`` is HTTP/2's :authority, or None for HTTP/1, where the Host header counts.  ``now``
    is in seconds since the epoch.

    Raises:
        AuthenticationFailedException: anything is amiss.  Whether an access key id is known, wrong
            or another store's cannot be told from the answer.
    """
    text = one_header(headers, "authorization")
    constant, _, signature = text.rpartition("Signature=")
    state = credentials.proven.get(constant)
    if state is not None:
        # The same text has been taken apart before, and what it names has signed a request of ours.
        credential, date, region, names, inner, outer = state
        amz_date = _checked_date(headers, date, now)
        if authority is None:
            authority = one_header(headers, "host").strip()
        to_sign = inner.copy()
        to_sign.update(
            string_to_sign(
                amz_date,
                f"{date}/{region}/{SERVICE}/aws4_request",
                canonical_request(method, path, names, headers, authority, body),
            )
        )
        signed = outer.copy()
        signed.update(to_sign.digest())
        if signature.isascii() and hmac.compare_digest(signed.hexdigest(), signature):
            return Verified(credential, region)
        raise AuthenticationFailedException(_NOT_VALID)

    given = parse_authorization(text)
    names = header_names(given.signed_headers)
    amz_date = _checked_date(headers, given.date, now)
    if authority is None:
        authority = one_header(headers, "host").strip()

    known = credentials.get(given.access_key_id)
    day_and_region = (given.date, given.region)
    signing_key = known.signing_keys.get(day_and_region) if known is not None else None
    cached = signing_key is not None
    if signing_key is None:
        secret = known.secret if known is not None else _DECOY
        signing_key = derive_signing_key(secret, given.date, given.region)
    text_to_sign = string_to_sign(
        amz_date,
        f"{given.date}/{given.region}/{SERVICE}/aws4_request",
        canonical_request(method, path, names, headers, authority, body),
    )
    right = hmac.digest(signing_key, text_to_sign, "sha256").hex()
    matches = hmac.compare_digest(right, given.signature)
    if known is None or not matches:
        raise AuthenticationFailedException(_NOT_VALID)
    if not cached:
        known.remember(given.date, given.region, signing_key)
    credentials.remember(constant, _signing_state(known, given.date, given.region, names, signing_key))
    return Verified(known, given.region)


def _checked_date(headers: Headers, day: str, now: float) -> str:
    """Return x-amz-date, which is near our clock and of that day (yyyymmdd)."""
    amz_date = one_header(headers, "x-amz-date").strip()
    if abs(parse_amz_date(amz_date) - now) > MAX_SKEW_S:
        raise AuthenticationFailedException("x-amz-date is more than 5 minutes from this server's clock")
    if not amz_date.startswith(day):
        raise AuthenticationFailedException("the credential's date is not the day of x-amz-date")
    return amz_date
