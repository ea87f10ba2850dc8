"""Errors in the shapes of AWS's protocols, and the words that each service has for the same fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from xml.sax.saxutils import escape

from cloudkeys.simulators.aws.context import AwsError, RawResponse

# Members of ``AwsError.extra`` that are hints between our services, never part of an answer.
HINTS = frozenset({"explicit_deny"})
QUERY_NAMESPACE = {
    "iam": "https://iam.amazonaws.com/doc/2010-05-08/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}
PROTOCOLS = {"kms": "json", "iam": "query", "sts": "query", "s3": "s3"}

_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
_TOKEN_INVALID = "The security token included in the request is invalid."
_TOKEN_EXPIRED = "The security token included in the request is expired"
_NO_KEY = "The AWS Access Key Id you provided does not exist in our records."

# What went wrong -> (code, HTTP status, message) by protocol, from the "common errors" page of each service's
# API reference and S3's list of error codes.
COMMON: Mapping[str, Mapping[str, tuple[str, int, str]]] = {
    "missing": {
        "json": ("MissingAuthenticationTokenException", 400, "Missing Authentication Token"),
        "query": ("MissingAuthenticationToken", 403, "Request is missing Authentication Token"),
        "s3": ("AccessDenied", 403, "Access Denied"),
    },
    "incomplete": {
        "json": ("IncompleteSignatureException", 400, "The Authorization header is not complete."),
        "query": ("IncompleteSignature", 400, "The Authorization header is not complete."),
        "s3": (
            "AuthorizationHeaderMalformed",
            400,
            "The authorization header that you provided is not valid.",
        ),
    },
    "unknown_key": {
        "json": ("UnrecognizedClientException", 400, _TOKEN_INVALID),
        "query": ("InvalidClientTokenId", 403, _TOKEN_INVALID),
        "s3": ("InvalidAccessKeyId", 403, _NO_KEY),
    },
    "bad_token": {
        "json": ("UnrecognizedClientException", 400, _TOKEN_INVALID),
        "query": ("InvalidClientTokenId", 403, _TOKEN_INVALID),
        "s3": ("InvalidToken", 400, "The provided token is malformed or otherwise not valid."),
    },
    "expired_token": {
        "json": ("ExpiredTokenException", 400, _TOKEN_EXPIRED),
        "query": ("ExpiredToken", 403, _TOKEN_EXPIRED),
        "s3": ("ExpiredToken", 400, "The provided token has expired."),
    },
    "signature": {
        "json": ("InvalidSignatureException", 400, _SIGNATURE),
        "query": ("SignatureDoesNotMatch", 403, _SIGNATURE),
        "s3": ("SignatureDoesNotMatch", 403, _SIGNATURE),
    },
    "skew": {
        "json": ("InvalidSignatureException", 400, "Signature expired or not yet valid."),
        "query": ("SignatureDoesNotMatch", 403, "Signature expired or not yet valid."),
        "s3": (
            "RequestTimeTooSkewed",
            403,
            "The difference between the request time and the server's time is too large.",
        ),
    },
    "throttle": {
        "json": ("ThrottlingException", 400, "Rate exceeded"),
        "query": ("Throttling", 400, "Rate exceeded"),
        "s3": ("SlowDown", 503, "Please reduce your request rate."),
    },
    "internal": {
        "json": (
            "KMSInternalException",
            500,
            "The request was rejected because an internal exception occurred.",
        ),
        "query": ("ServiceFailure", 500, "The request processing has failed because of an unknown error."),
        "s3": ("InternalError", 500, "We encountered an internal error. Please try again."),
    },
}


def common(kind: str, service: str, message: str | None = None, status: int | None = None) -> AwsError:
    """The error of that kind (a key of ``COMMON``) in the words of the service."""
    code, usual_status, usual_message = COMMON[kind][PROTOCOLS[service]]
    return AwsError(code, message or usual_message, status or usual_status)


def render(service: str, error: AwsError, request_id: str, *, head: bool = False) -> RawResponse:
    """The HTTP answer for an error. ``head`` leaves the body away (S3's HEAD requests)."""
    protocol = PROTOCOLS[service]
    extra = {name: value for name, value in error.extra.items() if name not in HINTS}
    if protocol == "json":
        document = {"__type": error.code, "message": error.message, **extra}
        return RawResponse(
            error.status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(document).encode()
        )
    members = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    members += "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in extra.items())
    if protocol == "s3":
        body = f"<Error>{members}<RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>"
        if head:
            return RawResponse(error.status, {"Content-Type": "application/xml"})
    else:
        side = "Receiver" if error.status >= 500 else "Sender"
        body = (
            f'<ErrorResponse xmlns="{QUERY_NAMESPACE[service]}"><Error><Type>{side}</Type>{members}</Error>'
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    return RawResponse(error.status, {"Content-Type": "text/xml"}, xml.encode())
