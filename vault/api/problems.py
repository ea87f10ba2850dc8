"""Every error of the API as an RFC 9457 problem that names field, cause and cure.

`PROBLEMS` is the one table from a code to a status and a title. A `DomainError` is looked up by its `code` (then by the
codes of the classes that it derives from); what Django and the REST framework raise is translated to a code first.
A new domain error needs one row here and nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import (
    BadRequest,
    ObjectDoesNotExist,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from django.http.multipartparser import MultiPartParserError
from redis.exceptions import RedisError
from rest_framework import exceptions as drf
from rest_framework.response import Response

from vault.errors import DomainError

logger = logging.getLogger("keystead.api")

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:keystead:problem:"


@dataclass(frozen=True)
class Kind:
    """How a code looks over HTTP. `cure` is the way out when the error itself names none."""

    status: int
    title: str
    cure: str


PROBLEMS: dict[str, Kind] = {
    # What is wrong with the request itself.
    "malformed_body": Kind(400, "The body is not acceptable JSON", "Send one JSON object in UTF-8."),
    "validation_failed": Kind(
        400, "Some of what was sent is not right", "Correct the fields that `errors` names."
    ),
    "bad_request": Kind(
        400, "The request is malformed", "Compare it with the API's description at /api/v1/docs."
    ),
    "not_authenticated": Kind(
        401, "Not signed in", "Send Authorization: Bearer with an API token, or sign in."
    ),
    "sign_in_failed": Kind(
        401, "Sign-in refused", "Check e-mail and password; ask an admin for a new one-time password."
    ),
    "second_factor_required": Kind(
        401, "A second factor is needed", "Send `code` from your authenticator too."
    ),
    "permission_denied": Kind(403, "Not allowed", "Ask somebody whose role allows it."),
    "csrf_failed": Kind(
        403, "The CSRF check failed", "Send the value of `csrf_token` (auth/me) as header X-CSRFToken."
    ),
    "password_change_required": Kind(
        403,
        "Set a new password first",
        "POST /api/v1/auth/password with the one-time password and a new one.",
    ),
    "second_factor_enrolment_required": Kind(
        403,
        "Set up a second factor first",
        "Open the web page and add an authenticator; then repeat the request.",
    ),
    "needs_approval": Kind(403, "Another person must agree", "Ask a colleague to approve it."),
    "not_found": Kind(
        404, "Not found", "Check the id, and that you are a member of the vault it belongs to."
    ),
    "method_not_allowed": Kind(
        405, "This address does not know that method", "Use one of those in the Allow header."
    ),
    "not_acceptable": Kind(406, "No answer in that format", "Ask for application/json."),
    "length_required": Kind(
        411, "The body has no announced length", "Send Content-Length in place of chunks."
    ),
    # What is wrong with the moment.
    "conflict": Kind(409, "The present state does not allow this", "Read the object again, then decide."),
    "idempotency_in_progress": Kind(
        409, "The first request with this Idempotency-Key still runs", "Repeat the request a little later."
    ),
    "idempotency_target_gone": Kind(
        409, "What the first request made is gone", "Use a new Idempotency-Key to make another."
    ),
    "stale_revision": Kind(
        412,
        "Somebody changed it since you read it",
        "Read it again, look at what changed, repeat your change.",
    ),
    "body_too_large": Kind(413, "The body is too large", "Send less at a time."),
    "unsupported_media_type": Kind(415, "The body is not of a type taken here", "Send application/json."),
    "idempotency_mismatch": Kind(
        422, "This Idempotency-Key was used for another request", "Use a new key for a new request."
    ),
    "precondition_required": Kind(
        428,
        "Say which revision you have read",
        'Send its ETag, such as If-Match: "3"; If-Match: * overwrites blindly.',
    ),
    "rate_limited": Kind(429, "Too many requests", "Wait for the seconds that Retry-After names."),
    # What is wrong with us, or with whom we ask.
    "error": Kind(400, "This cannot be done", "See the cause."),
    "internal_error": Kind(
        500, "Keystead failed", "Repeat later; give the request id to whoever runs Keystead."
    ),
    "provider_error": Kind(502, "The cloud refused or failed", "See the cause; test the CSP account."),
    "unavailable": Kind(
        503, "Something that is needed does not answer", "Repeat the request a little later."
    ),
}

_FIELD_CURES = {
    "required": "Send this field.",
    "null": "Send a value, or leave the field out where it is optional.",
    "blank": "Send some text.",
    "invalid_choice": "Send one of the values that the API's description lists.",
    "max_length": "Shorten it.",
    "min_length": "Lengthen it.",
    "max_value": "Send a smaller number.",
    "min_value": "Send a larger number.",
    "unknown_field": "Remove it, or correct its name.",
    "not_a_list": "Send a JSON array.",
    "invalid": "Send the type and format that the API's description names.",
}
_FIELD_CURE = "Compare it with the API's description at /api/v1/docs."


_MEMBERS = frozenset(
    {"type", "title", "status", "code", "detail", "cure", "field", "errors", "request_id", "kind"}
)


class ApiError(Exception):
    """Something wrong with a request that is a matter of HTTP, not of the domain. `code` is a key of PROBLEMS."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str = "",
        cure: str = "",
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.cure = cure
        self.headers = headers or {}
        self.extra = extra


def kind_of(error: DomainError) -> tuple[str, Kind]:
    """The code and table row of a domain error: those of its class, else of the nearest base class that has a row.

    An instance's own `code` (provider and operation errors carry a finer word) does not count: it goes out as `reason_code`.
    """
    for cls in type(error).__mro__:
        code = cls.__dict__.get("code")
        if isinstance(code, str) and code in PROBLEMS:
            return code, PROBLEMS[code]
    return "error", PROBLEMS["error"]


def problem(
    code: str,
    detail: str,
    *,
    kind: Kind | None = None,
    field: str = "",
    cure: str = "",
    errors: list[dict[str, str]] | None = None,
    request_id: str = "",
    **extra: Any,
) -> dict[str, Any]:
    """The body of a problem (RFC 9457, section 3, with our own members code, cure, field, errors and request_id)."""
    row = kind or PROBLEMS[code]
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": row.title,
        "status": row.status,
        "code": code,
        "detail": detail,
        "cure": cure or row.cure,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = errors
        field = field or (errors[0]["field"] if len(errors) == 1 else "")
    if field:
        body["field"] = field
    body.update({name: value for name, value in extra.items() if name not in body})
    return body


def handle_exception(error: Exception, context: dict[str, Any]) -> Response:
    """The REST framework's EXCEPTION_HANDLER: always answers with a problem, never re-raises.

    An exception that nobody foresaw is logged with its traceback and answered without any of it.
    """
    request = context.get("request")
    request_id = getattr(request, "request_id", "") or getattr(
        getattr(request, "_request", None), "request_id", ""
    )
    code, arguments, headers = _translate(error)
    if code == "internal_error":
        logger.error("unhandled exception in the API", exc_info=error, extra={"request_id": request_id})
    body = problem(code, request_id=request_id, **arguments)
    if body["status"] == 401:  # RFC 9110, 15.5.2
        headers.setdefault("WWW-Authenticate", 'Bearer realm="Keystead"')
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _translate(error: Exception) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Code, arguments of `problem`, headers."""
    if isinstance(error, ApiError):
        arguments = {"detail": error.detail, "field": error.field, "cure": error.cure, **error.extra}
        return error.code, arguments, error.headers
    if isinstance(error, DomainError):
        return _translate_domain(error)
    if isinstance(error, drf.APIException):
        return _translate_drf(error)
    if isinstance(error, Http404 | ObjectDoesNotExist):
        return "not_found", {"detail": "There is no such object, or it is not yours."}, {}
    if isinstance(error, DjangoPermissionDenied):
        return "permission_denied", {"detail": "This is not allowed."}, {}
    if isinstance(error, RequestDataTooBig | TooManyFieldsSent):
        return "body_too_large", {"detail": "The body is larger than the API takes."}, {}
    if isinstance(error, SuspiciousOperation | BadRequest | MultiPartParserError):
        return "bad_request", {"detail": "The request is malformed."}, {}
    if isinstance(error, IntegrityError):
        logger.warning("integrity error reached the API", exc_info=error)
        return "conflict", {"detail": "Another change that was made at the same time stands in the way."}, {}
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("the database does not answer", exc_info=error)
        return "unavailable", {"detail": "The database does not answer."}, {"Retry-After": "2"}
    if isinstance(error, RedisError):
        logger.error("the cache does not answer", exc_info=error)
        return (
            "unavailable",
            {"detail": "The cache that counts sign-ins does not answer."},
            {"Retry-After": "2"},
        )
    if isinstance(error, DatabaseError):
        logger.error("the database refused a statement", exc_info=error)
    return (
        "internal_error",
        {"detail": "An unforeseen error ended this request; nothing more is known here."},
        {},
    )


def _translate_domain(error: DomainError) -> tuple[str, dict[str, Any], dict[str, str]]:
    code, kind = kind_of(error)
    headers: dict[str, str] = {}
    extra = {
        name: value for name, value in error.context.items() if name not in _MEMBERS and _is_plain(value)
    }
    if error.code != code:
        extra["reason_code"] = error.code
    if "retry_after" in extra:
        headers["Retry-After"] = str(max(1, round(float(extra["retry_after"]))))
    elif kind.status == 503:
        headers["Retry-After"] = "2"
    errors = [
        {
            "field": str(e.get("field", "")),
            "message": str(e.get("message", "")),
            "cure": str(e.get("cure") or _FIELD_CURE),
        }
        for e in getattr(error, "errors", [])
    ]
    arguments = {
        "detail": error.message,
        "kind": kind,
        "field": error.field,
        "cure": error.cure,
        "errors": errors,
    }
    return code, {**extra, **arguments}, headers


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, str | int | float | bool | type(None))


def _translate_drf(error: drf.APIException) -> tuple[str, dict[str, Any], dict[str, str]]:
    headers: dict[str, str] = {}
    if auth_header := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    match error:
        case drf.ValidationError():
            errors = flatten_errors(error.detail)
            detail = errors[0]["message"] if len(errors) == 1 else f"{len(errors)} things are not right."
            return "validation_failed", {"detail": detail, "errors": errors}, headers
        case drf.ParseError():
            return "malformed_body", {"detail": str(error.detail)}, headers
        case drf.AuthenticationFailed() | drf.NotAuthenticated():
            return "not_authenticated", {"detail": str(error.detail)}, headers
        case drf.PermissionDenied() if str(error.detail).startswith("CSRF"):
            return "csrf_failed", {"detail": str(error.detail)}, headers
        case drf.PermissionDenied():
            return "permission_denied", {"detail": str(error.detail)}, headers
        case drf.NotFound():
            return "not_found", {"detail": "There is no such object, or it is not yours."}, headers
        case drf.MethodNotAllowed():
            return "method_not_allowed", {"detail": str(error.detail)}, headers
        case drf.NotAcceptable():
            return "not_acceptable", {"detail": str(error.detail)}, headers
        case drf.UnsupportedMediaType():
            return "unsupported_media_type", {"detail": str(error.detail)}, headers
        case drf.Throttled():
            wait = max(1, int(getattr(error, "wait", None) or 1))
            headers["Retry-After"] = str(wait)
            return "rate_limited", {"detail": f"Too many requests; the next is taken in {wait} s."}, headers
    return "bad_request", {"detail": str(error.detail)}, headers


def flatten_errors(detail: Any, path: str = "") -> list[dict[str, str]]:
    """A serializer's nested errors as a flat list of {field, message, cure}; list items are written like tags[2].name."""
    if isinstance(detail, dict):
        found = []
        for name, value in detail.items():
            if name == "non_field_errors":
                inner = path
            elif isinstance(name, int):  # ListField reports by index
                inner = f"{path}[{name}]"
            else:
                inner = f"{path}.{name}" if path else str(name)
            found.extend(flatten_errors(value, inner))
        return found
    if isinstance(detail, list | tuple):
        found = []
        for index, item in enumerate(detail):
            nested = isinstance(item, dict | list)
            found.extend(flatten_errors(item, f"{path}[{index}]" if nested else path))
        return found
    code = getattr(detail, "code", "invalid")
    return [{"field": path, "message": str(detail), "cure": _FIELD_CURES.get(code, _FIELD_CURE)}]


def problem_response(request: HttpRequest, code: str, detail: str) -> JsonResponse:
    """A problem outside the REST framework: for Django's own error handlers under /api/."""
    body = problem(code, detail, request_id=getattr(request, "request_id", ""))
    return JsonResponse(body, status=body["status"], content_type=CONTENT_TYPE)
