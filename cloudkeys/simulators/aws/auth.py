"""Signature Version 4 as AWS checks it on its side: in the Authorization header or in the query (presigned).

Source of the rules: "AWS Signature Version 4 for API requests" in the IAM user guide and, for what S3 does
differently (path encoded once, payload hash in a header, chunked payloads), the S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from cloudkeys.simulators.aws import errors, iam, s3_checksums
from cloudkeys.simulators.aws.auth_keys import ALGORITHM, signing_key
from cloudkeys.simulators.aws.context import AwsError, Caller, Simulator, check_region

SKEW_S = {"s3": 15 * 60}
DEFAULT_SKEW_S = 5 * 60
MAX_PRESIGNED_S = 7 * 24 * 3600
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_CREDENTIAL = re.compile(r"([\w-]{4,128})/([0-9]{8})/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})/aws4_request")
_HEADER = re.compile(
    rf"{ALGORITHM} +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([0-9a-f]{{64}})"
)
_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Signature:
    """What the request says about its own signature, before anything of it is believed."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    session_token: str | None
    presigned_s: int | None = None

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request that a signature covers; ``path`` and ``query`` as sent, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def query_pairs(query: str) -> list[tuple[bytes, bytes]]:
    """The decoded pairs of a query string, in order (``+`` is a plus sign here, as in AWS's canonical form)."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


def read_signature(request: SignedRequest, service: str) -> Signature:
    """Find the signature. Raises AwsError in the words of ``service`` when it is missing or incomplete."""
    header = request.headers.get("authorization")
    if header is not None:
        found = _HEADER.fullmatch(header.strip())
        if not found:
            raise errors.common("incomplete", service)
        credential, signed_headers, signature = found.groups()
        timestamp = request.headers.get("x-amz-date", "")
        token, presigned_s = request.headers.get("x-amz-security-token"), None
    else:
        fields = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in query_pairs(request.query)
        }
        if "X-Amz-Signature" not in fields:
            raise errors.common("missing", service)
        try:
            credential, signed_headers = fields["X-Amz-Credential"], fields["X-Amz-SignedHeaders"]
            signature, timestamp = fields["X-Amz-Signature"], fields["X-Amz-Date"]
            presigned_s = int(fields["X-Amz-Expires"])
        except (KeyError, ValueError):
            raise errors.common("incomplete", service) from None
        token = fields.get("X-Amz-Security-Token")
        if fields.get("X-Amz-Algorithm") != ALGORITHM or not 0 < presigned_s <= MAX_PRESIGNED_S:
            raise errors.common("incomplete", service)
    scope = _CREDENTIAL.fullmatch(credential)
    if not scope:
        raise errors.common("incomplete", service)
    access_key_id, date, region, scope_service = scope.groups()
    names = tuple(signed_headers.split(";"))
    if "host" not in names or (header is not None and "x-amz-date" not in names):
        raise errors.common("incomplete", service)
    return Signature(
        access_key_id, date, region, scope_service, names, signature, timestamp, token, presigned_s
    )


def _canonical_path(path: str, service: str) -> str:
    if service == "s3":
        return path or "/"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    normal = "/" + "/".join(parts) + ("/" if parts and path.endswith("/") else "")
    return quote(normal, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = [
        (quote(name, safe="~"), quote(value, safe="~"))
        for name, value in query_pairs(query)
        if name != b"X-Amz-Signature"
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _payload_hash(request: SignedRequest, claim: Signature) -> str:
    if claim.service != "s3":
        return hashlib.sha256(request.body).hexdigest()
    if claim.presigned_s is not None:
        return request.headers.get("x-amz-content-sha256", UNSIGNED)
    stated = request.headers.get("x-amz-content-sha256")
    if stated is None:
        raise AwsError("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return stated


def canonical_request(request: SignedRequest, claim: Signature) -> str:
    """The canonical request of the signature's own SignedHeaders."""
    headers = "".join(
        f"{name}:{re.sub(' +', ' ', request.headers.get(name, '').strip())}\n"
        for name in claim.signed_headers
    )
    return "\n".join(
        (
            request.method,
            _canonical_path(request.path, claim.service),
            _canonical_query(request.query),
            headers,
            ";".join(claim.signed_headers),
            _payload_hash(request, claim),
        )
    )


def authenticate(sim: Simulator, request: SignedRequest, service: str) -> tuple[Caller, str, bytes]:
    """Check the signature; returns the caller, the region of the credential's scope, and the decoded body.

    Raises AwsError as the service does: unknown or inactive access key, wrong or expired signature, wrong,
    missing or expired session token, a body that does not match its stated hash.
    """
    claim = read_signature(request, service)
    if claim.service != service:
        raise errors.common(
            "signature", service, f"Credential should be scoped to correct service: '{service}'."
        )
    check_region(claim.region)
    _check_time(claim, service)
    found = iam.find_access_key(sim, claim.access_key_id)
    if found is None:
        raise errors.common("unknown_key", service)
    secret, caller, active, token = found
    key = signing_key(secret, claim.date, claim.region, claim.service)
    digest = hashlib.sha256(canonical_request(request, claim).encode()).hexdigest()
    text = f"{ALGORITHM}\n{claim.timestamp}\n{claim.scope}\n{digest}"
    # The state of a key is told only to who has its secret.
    if not hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), claim.signature):
        raise errors.common("signature", service)
    if not active:
        raise errors.common("unknown_key" if token is None else "expired_token", service)
    if token is not None and not hmac.compare_digest(token.encode(), (claim.session_token or "").encode()):
        raise errors.common("bad_token", service)
    if token is None and claim.session_token is not None:
        raise errors.common("bad_token", service)
    _check_all_signed(request, claim)
    return caller, claim.region, _checked_body(request, claim, key)


def _check_time(claim: Signature, service: str) -> None:
    try:
        signed_at = datetime.strptime(claim.timestamp, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise errors.common("incomplete", service) from None
    if not claim.timestamp.startswith(claim.date):
        raise errors.common(
            "signature",
            service,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date.",
        )
    age, skew = time.time() - signed_at, SKEW_S.get(service, DEFAULT_SKEW_S)
    if claim.presigned_s is not None:
        if age > claim.presigned_s and service == "s3":
            raise AwsError("AccessDenied", "Request has expired", 403)
        skew = max(skew, claim.presigned_s) if age > 0 else skew
    if abs(age) > skew:
        now = datetime.now(UTC).strftime(_DATE)
        when = "expired" if age > 0 else "not yet current"
        order = "earlier" if age > 0 else "later"
        message = f"Signature {when}: {claim.timestamp} is now {order} than the allowed {skew} s from {now}."
        raise errors.common("skew", service, None if service == "s3" else message)


def _check_all_signed(request: SignedRequest, claim: Signature) -> None:
    """S3 insists that every x-amz- header is signed."""
    if claim.service != "s3":
        return
    unsigned = [n for n in request.headers if n.startswith("x-amz-") and n not in claim.signed_headers]
    if claim.presigned_s is not None:
        unsigned = [name for name in unsigned if name != "x-amz-content-sha256"]
    if unsigned:
        raise AwsError(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            403,
            {"HeadersNotSigned": ", ".join(sorted(unsigned))},
        )


def _checked_body(request: SignedRequest, claim: Signature, key: bytes) -> bytes:
    """The payload, with S3's chunked signing taken off, when it is what the signature promised."""
    if claim.service != "s3":
        return request.body
    stated = request.headers.get("x-amz-content-sha256", UNSIGNED)
    if stated in (STREAMING_SIGNED, STREAMING_UNSIGNED):
        return _decode_chunks(request, claim, key if stated == STREAMING_SIGNED else None)
    if stated == UNSIGNED:
        return request.body
    if stated != hashlib.sha256(request.body).hexdigest():
        raise AwsError(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    return request.body


def _decode_chunks(request: SignedRequest, claim: Signature, key: bytes | None) -> bytes:
    """Take off aws-chunked framing; with a key, check the chained signature of each chunk.

    The checksum in the trailer is compared with the payload.
    """
    payload, position, previous = bytearray(), 0, claim.signature
    body = request.body
    while True:
        end = body.find(b"\r\n", position)
        line = body[position:end].decode("latin-1") if end >= 0 else ""
        size_text, _, extension = line.partition(";")
        if end < 0 or not re.fullmatch("[0-9a-fA-F]{1,8}", size_text):
            raise AwsError("IncompleteBody", "The request body is not well-formed aws-chunked content.")
        size = int(size_text, 16)
        chunk = body[end + 2 : end + 2 + size]
        if len(chunk) != size:
            raise AwsError("IncompleteBody", "The request body terminated unexpectedly.")
        if key is not None:
            text = "\n".join(
                (
                    f"{ALGORITHM}-PAYLOAD",
                    claim.timestamp,
                    claim.scope,
                    previous,
                    EMPTY_SHA256,
                    hashlib.sha256(chunk).hexdigest(),
                )
            )
            previous = hmac.new(key, text.encode(), "sha256").hexdigest()
            if not hmac.compare_digest(f"chunk-signature={previous}", extension):
                raise errors.common("signature", "s3")
        if size == 0:
            break
        payload += chunk
        position = end + 2 + size + 2
    stated = request.headers.get("x-amz-decoded-content-length")
    if stated != str(len(payload)):
        raise AwsError(
            "IncompleteBody", "The body is not of the length that x-amz-decoded-content-length states."
        )
    s3_checksums.check_trailer(body[end + 2 :], request.headers.get("x-amz-trailer", ""), bytes(payload))
    return bytes(payload)
