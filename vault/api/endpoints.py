"""The frame of an endpoint: `ApiView`, and the decorator `operation` that both describes a handler and makes it so.

What `operation` declares (body, query parameters, If-Match, Idempotency-Key, who may call, rate limit) is enforced before the
handler runs and is written into the OpenAPI document: the two cannot disagree. A handler without it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from uuid import UUID

from django.db.models import Model
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from vault.actors import Actor
from vault.api import describing, idempotency
from vault.api.authentication import BearerAuthentication, OperationAccess, SessionAuthentication
from vault.api.describing import ListParts
from vault.api.listing import Filter, Listing, check_parameters, paginate, parse_parameters
from vault.api.parsing import FirstRenderer, StrictJsonParser
from vault.api.preconditions import expected_revision, explain_stale
from vault.api.problems import ApiError, handle_exception
from vault.api.schema import ApiSchema
from vault.api.serializers import StrictSerializer
from vault.api.throttling import CallerThrottle
from vault.errors import NotFound, StaleRevision

Handler = Callable[..., Response]


@dataclass(frozen=True)
class Declared:
    """What `operation` was told; see there."""

    operation_id: str
    access: str
    throttle: str
    request: type[Any] | None
    listing: Listing | None
    query: frozenset[str]
    if_match: str
    replay: idempotency.Replay | None
    summary: str = ""
    tag: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class ApiRequest(Request):
    """For annotations: what the frame adds to a request before a handler sees it."""

    actor: Actor
    data_in: dict[str, Any]
    expected: int | None


class ApiView(APIView):
    """Base of every endpoint. One class a path; methods get, post, patch, put, delete, each under `operation`.

    A handler finds: `request.actor` (None only where access="anyone"), `request.data_in` (the validated body), and
    `request.expected` (the revision of If-Match, to be handed to the service; None for `*`).
    """

    authentication_classes: Any = (
        BearerAuthentication,
        SessionAuthentication,
    )
    permission_classes: Any = (OperationAccess,)
    throttle_classes: Any = (CallerThrottle,)
    parser_classes: Any = (StrictJsonParser,)
    renderer_classes: Any = (JSONRenderer,)
    content_negotiation_class = FirstRenderer
    # No OPTIONS: there is no CORS (the API is for its own origin and for programs), and views describe themselves in the document.
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]  # noqa: RUF012 - Django declares it so
    schema = ApiSchema()

    @property
    def declared(self) -> Declared | None:
        """The declaration of the handler that serves this request; None when there is none."""
        method = self.request.method.lower() if self.request.method else ""
        method = "get" if method == "head" else method
        return getattr(getattr(self, method, None), "declared", None)

    def perform_authentication(self, request: Request) -> None:
        """Authenticate, and put the actor where handlers look for it."""
        if request.method not in self.allowed_methods:
            # Before permissions, so that an unknown method is 405 and not 403.
            raise exceptions.MethodNotAllowed(request.method or "")
        if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
            # Django reads as much as Content-Length says, so such a body would silently count as empty.
            raise ApiError("length_required", "The body came in chunks, without Content-Length.")
        super().perform_authentication(request)
        request.actor = request.auth if isinstance(request.auth, Actor) else None  # type: ignore[attr-defined]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """Problems, always."""
        return handle_exception

    def handle_exception(self, exc: Exception) -> Response:
        """As usual, and a stale revision is told with what changed."""
        if isinstance(exc, StaleRevision):
            explain_stale(exc, self.request, self.kwargs)
        return super().handle_exception(exc)


def operation(
    operation_id: str,
    *,
    summary: str,
    description: str,
    tag: str,
    response: Any = None,
    status: int = 200,
    example: Any = None,
    request: type[Any] | None = None,
    request_example: Any = None,
    errors: Iterable[int] = (),
    access: str = "signed_in",
    throttle: str = "",
    listing: Listing | None = None,
    query: Iterable[Filter] = (),
    if_match: str = "",
    replay: idempotency.Replay | None = None,
    etag: bool = False,
    may_take_long: bool = False,
    media_type: str = "application/json",
    or_answer: tuple[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a handler of an ApiView.

    operation_id: `vaults_create`: collection, underscore, verb. Unique, never renamed.
    summary, description: one line in the imperative; then what it means for the customer's data, in Markdown.
    response: serializer class of the answer (of one item, when `listing` is given); None for an empty one.
    example, request_example: the answer's (one item's, for a list) and the body's; both required where there is a body.
    request: a StrictSerializer class; its validated data is `request.data_in`. PATCH validates partially.
    errors: statuses beyond those that follow from the rest (400, 401, 403, 409, 412, 413, 415, 422, 428, 429, 500, 503).
    access: "signed_in"; "one_time_password" (allowed before a one-time password is changed); "anyone".
    throttle: "" (by caller) or "sign_in".
    listing: adds filters, ordering, limit, cursor, with_total (and vault); answer with `page(...)`.
    query: further query parameters, as Filter; what they parse is refused here already, the handler reads them with `single` or
        `filtered`.
    if_match: "required" or "optional": the header's revision is `request.expected`.
    replay: set on every POST that creates: takes an Idempotency-Key; see vault/api/idempotency.py. Answer with `created`
        or `accepted`.
    etag: says that the answer carries an ETag (use `detail`).
    may_take_long: the same body may come as 202, when an Operation does the rest (use `done_or_begun`).
    media_type: of the answer. or_answer: another media type and its example, where a query parameter chooses.
    """
    parameters = tuple(query)
    names = frozenset(f.name for f in parameters) | (listing.names if listing else frozenset())
    declared = Declared(
        operation_id=operation_id,
        access=access,
        throttle=throttle,
        request=request,
        listing=listing,
        query=names,
        if_match=if_match,
        replay=replay,
        summary=summary,
        tag=tag,
    )

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def run(view: ApiView, http: Any, *args: Any, **kwargs: Any) -> Response:
            check_parameters(http, names)
            parse_parameters(http, parameters)
            if if_match:
                http.expected = expected_revision(http, required=if_match == "required")
            if request is not None:
                partial = http.method == "PATCH"
                body = request(data=http.data, partial=partial, context={"request": http, "view": view})
                body.is_valid(raise_exception=True)
                http.data_in = body.validated_data
            elif http.method in ("POST", "PUT", "PATCH", "DELETE") and http.data:
                # Whoever sends fields to what takes none believes that they count.
                StrictSerializer(data=http.data).is_valid(raise_exception=True)
            if replay is not None:
                return idempotency.run(
                    http, replay, lambda: handler(view, http, *args, **kwargs), status=status
                )
            return handler(view, http, *args, **kwargs)

        run.declared = declared  # type: ignore[attr-defined]
        return describing.describe(
            run,
            operation_id=operation_id,
            summary=summary,
            description=description,
            tag=tag,
            request=request,
            request_example=request_example,
            response=response,
            status=status,
            example=example,
            errors=errors,
            access=access,
            lists=ListParts(listing, parameters),
            if_match=if_match,
            creates=replay is not None,
            etag=etag,
            may_take_long=may_take_long,
            media_type=media_type,
            or_answer=or_answer,
        )

    return decorate


def page(request: Any, rows: Any, listing: Listing, serializer: type[Any], **context: Any) -> Response:
    """Answer a list: {"items": [...], "next_cursor": ..., "total": ...} and a Link header to the next page (RFC 8288)."""
    found = paginate(request, rows, listing)
    items = serializer(found.rows, many=True, context={"request": request, **context}).data
    response = Response({"items": items, "next_cursor": found.next_cursor, "total": found.total})
    if found.next_cursor is not None:
        parameters = request.query_params.copy()
        parameters["cursor"] = found.next_cursor
        response["Link"] = f'<{request.path}?{parameters.urlencode()}>; rel="next"'
    return response


def detail(row: Any, data: Any, status: int = 200) -> Response:
    """Answer one object, with its revision as ETag."""
    return Response(data, status=status, headers={"ETag": f'"{row.revision}"'})


def created(row: Model, data: Mapping[str, Any], *, location: str = "") -> Response:
    """Answer 201 to a POST with `replay`; `data` may hold secrets, for they are never stored."""
    response = Response({**data, "idempotency_replayed": False}, status=201)
    if location:
        response["Location"] = location
    if (revision := getattr(row, "revision", None)) is not None:
        response["ETag"] = f'"{revision}"'
    response.target = row  # type: ignore[attr-defined]
    return response


def accepted(operation_id: UUID, data: Mapping[str, Any], *, row: Model | None = None) -> Response:
    """Answer 202 for long work: `data` is the answer's body, Location leads to the Operation.

    `row` is the object that a POST with `replay` has made along with the Operation, if any.
    """
    response = Response({**data}, status=202)
    response["Location"] = f"/api/v1/operations/{operation_id}"
    response.operation_id = operation_id  # type: ignore[attr-defined]
    if row is not None:
        response.target = row  # type: ignore[attr-defined]
    return response


def done_or_begun(
    data: Mapping[str, Any], operation_id: UUID | None, *, row: Model | None = None, status: int = 200
) -> Response:
    """Answer `status` when all is done, 202 when an Operation does the rest (`may_take_long`)."""
    if operation_id is not None:
        return accepted(operation_id, data, row=row)
    response = Response({**data}, status=status)
    if row is not None:
        response.target = row  # type: ignore[attr-defined]
    return response


class UnknownAddress(ApiView):
    """Every address under /api/ that is none: 404 as a problem, whoever asks."""

    authentication_classes: Any = ()
    permission_classes: Any = ()
    throttle_classes: Any = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse, whatever the method."""
        cure = "Addresses have no slash at their end; /api/v1/docs lists them all."
        raise NotFound(f"There is nothing at {request.path[:200]}.", cure=cure)
