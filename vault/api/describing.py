"""Turns what `vault.api.endpoints.operation` declares into the OpenAPI document (through drf-spectacular)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    inline_serializer,
)
from rest_framework import serializers

from vault.api import problems
from vault.api.listing import MAX_LIMIT, Filter, Listing
from vault.api.serializers import ProblemSerializer

_ERRORS: dict[int, tuple[str, str, str]] = {
    # status: code, detail and description of the example
    400: (
        "validation_failed",
        "This field is required.",
        "Something in the request is wrong; `errors` names each field.",
    ),
    401: (
        "not_authenticated",
        "Authentication credentials were not provided.",
        "Not signed in, or the token is no longer good.",
    ),
    403: (
        "permission_denied",
        "Your role in this vault (Auditor) does not allow it.",
        "The role does not allow it.",
    ),
    404: (
        "not_found",
        "There is no such object, or it is not yours.",
        "No such object, or not yours: the two look alike.",
    ),
    409: ("conflict", "It is in a state that does not allow this.", "The present state does not allow it."),
    411: (
        "length_required",
        "The body came in chunks, without Content-Length.",
        "The body has no announced length.",
    ),
    412: (
        "stale_revision",
        "It has changed since you read it (now revision 4).",
        "Changed since; `changed` tells by whom.",
    ),
    413: ("body_too_large", "The body is over 1048576 bytes.", "The body is too large."),
    415: ("unsupported_media_type", "Unsupported media type.", "The body is not application/json."),
    422: (
        "idempotency_mismatch",
        "This Idempotency-Key came earlier with another body.",
        "The key was used before.",
    ),
    428: ("precondition_required", "This change needs the header If-Match.", "If-Match is missing."),
    429: (
        "rate_limited",
        "Too many requests; the next is taken in 12 s.",
        "Too many requests; see Retry-After.",
    ),
    500: (
        "internal_error",
        "An unforeseen error ended this request.",
        "Keystead failed; the log has the request id.",
    ),
    502: ("provider_error", "AWS answered: access denied.", "The cloud refused or failed."),
    503: (
        "unavailable",
        "The database does not answer.",
        "Something needed does not answer; see Retry-After.",
    ),
}


@dataclass(frozen=True)
class ListParts:
    """Query parameters of an operation."""

    listing: Listing | None
    query: tuple[Filter, ...]


def describe(
    handler: Callable[..., Any],
    *,
    operation_id: str,
    summary: str,
    description: str,
    tag: str,
    request: type[Any] | None,
    request_example: Any,
    response: Any,
    status: int,
    example: Any,
    errors: Iterable[int],
    access: str,
    lists: ListParts,
    if_match: str,
    creates: bool,
    etag: bool,
    may_take_long: bool,
    media_type: str,
    or_answer: tuple[str, Any] | None,
) -> Callable[..., Any]:
    """Attach the OpenAPI description to a handler. Raises ValueError when an example is missing."""
    if (response is not None and example is None) or (request is not None and request_example is None):
        raise ValueError(f"{operation_id} needs an example of what it takes and of what it answers")
    statuses = set(errors) | {400, 429, 500, 503}
    if access != "anyone":
        statuses |= {401, 403}
    if request is not None:
        statuses |= {411, 413, 415}
    if lists.listing is not None and lists.listing.in_vault:
        statuses |= {404}
    if if_match:
        statuses |= {404, 412} | ({428} if if_match == "required" else set())
    if creates:
        statuses |= {409, 422}
    responses: dict[Any, Any] = {}
    examples: list[OpenApiExample] = []
    answer = response
    if lists.listing is not None:
        answer = _page_serializer(operation_id, response)
        example = {"items": [example], "next_cursor": None, "total": None}
    elif isinstance(answer, serializers.ListSerializer) and isinstance(example, list):
        example = example[0]  # drf-spectacular puts the example of a list's item into a list by itself
    if answer is None:
        responses[status] = OpenApiResponse(description="Done.")
    else:
        responses[(status, media_type)] = OpenApiResponse(
            answer, description="Done." if status != 202 else "Begun."
        )
        if or_answer is not None:
            other_type, other_example = or_answer
            responses[(status, other_type)] = OpenApiResponse(answer, description="Done.")
            examples.append(
                OpenApiExample(
                    "Other form",
                    value=other_example,
                    response_only=True,
                    status_codes=[str(status)],
                    media_type=other_type,
                )
            )
        if may_take_long:
            responses[(202, media_type)] = OpenApiResponse(
                answer, description="Begun; `operation` does the rest."
            )
            examples.append(
                OpenApiExample(
                    "Begun", value=example, response_only=True, status_codes=["202"], media_type=media_type
                )
            )
        examples.append(
            OpenApiExample(
                "Answer", value=example, response_only=True, status_codes=[str(status)], media_type=media_type
            )
        )
    if request is not None:
        examples.append(OpenApiExample("Request", value=request_example, request_only=True))
    for code in sorted(statuses):
        name, cause, words = _ERRORS[code]
        responses[(code, problems.CONTENT_TYPE)] = OpenApiResponse(ProblemSerializer, description=words)
        body = problems.problem(name, cause, request_id="0f4b6a1e5d3c4f7a9b8c7d6e5f4a3b2c")
        examples.append(
            OpenApiExample(
                name,
                value=body,
                response_only=True,
                status_codes=[str(code)],
                media_type=problems.CONTENT_TYPE,
            )
        )
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description,
        tags=[tag],
        request=request,
        responses=responses,
        examples=examples,
        parameters=_parameters(lists, if_match=if_match, creates=creates, etag=etag, status=status),
        auth=[] if access == "anyone" else None,
    )(handler)


def _page_serializer(operation_id: str, item: Any) -> Any:
    name = "".join(part.capitalize() for part in operation_id.split("_")) + "Page"
    return inline_serializer(
        name,
        {
            "items": item(many=True),
            "next_cursor": serializers.CharField(
                allow_null=True, help_text="Send it as `cursor` for the next page."
            ),
            "total": serializers.IntegerField(
                allow_null=True, help_text="All that match; null unless with_total=true."
            ),
        },
    )


def _parameters(
    lists: ListParts, *, if_match: str, creates: bool, etag: bool, status: int
) -> list[OpenApiParameter]:
    found = [_query(spec) for spec in (*(lists.listing.filters if lists.listing else ()), *lists.query)]
    if (listing := lists.listing) is not None:
        names = [sign + name for name in listing.orderings for sign in ("", "-")]
        found += [
            OpenApiParameter(
                "ordering",
                {"type": "string", "enum": names, "default": listing.default_ordering},
                description="What to sort by; with - in front, descending.",
            ),
            OpenApiParameter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": listing.default_limit},
                description="Rows a page.",
            ),
            OpenApiParameter("cursor", OpenApiTypes.STR, description="`next_cursor` of the page before."),
            OpenApiParameter("with_total", OpenApiTypes.BOOL, description="Count all that match, too."),
        ]
        if listing.in_vault:
            found.append(
                OpenApiParameter(
                    "vault",
                    OpenApiTypes.UUID,
                    description="The vault; may be left out by a token of one vault and by members of one vault only.",
                )
            )
    if if_match:
        found.append(
            OpenApiParameter(
                "If-Match",
                {"type": "string", "pattern": r'^(\*|"[0-9]{1,9}")$'},
                OpenApiParameter.HEADER,
                required=if_match == "required",
                description='The ETag that you have read, such as `"3"`; `*` overwrites whatever is there.',
            )
        )
    if creates:
        found.append(
            OpenApiParameter(
                "Idempotency-Key",
                {"type": "string", "pattern": "^[!-~]{1,255}$"},
                OpenApiParameter.HEADER,
                description="A fresh UUID for each thing to be made. A repeat within 24 hours makes nothing again and "
                "answers with what was made, without its secret.",
            )
        )
        found.append(
            OpenApiParameter(
                "Idempotency-Replayed",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                response=[status],
                description="`true` on a repeat.",
            )
        )
    if etag:
        found.append(
            OpenApiParameter(
                "ETag",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                response=[status],
                description="The revision, for If-Match.",
            )
        )
    return found


def _query(spec: Filter) -> OpenApiParameter:
    schema = spec.schema
    if spec.many:
        schema = {"type": "array", "items": spec.schema, "maxItems": 50}
    examples = [OpenApiExample("Example", value=spec.example)] if spec.example is not None else None
    return OpenApiParameter(
        spec.name, schema, description=spec.help, examples=examples, explode=True if spec.many else None
    )


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """API tokens in the document."""

    target_class = "vault.api.authentication.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """See OpenAPI 3.1, Security Scheme Object."""
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An API token, `kst_...`, from POST /api/v1/auth/tokens.",
        }


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The session cookie in the document."""

    target_class = "vault.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """See OpenAPI 3.1, Security Scheme Object."""
        from django.conf import settings

        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "From POST /api/v1/auth/sign-in. Changing requests also need the header X-CSRFToken.",
        }
