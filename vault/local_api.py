"""The REST API called inside this process, by whoever may read the data folder: no network, no token, the same rules.

For the command line. What a request checks, what it answers and what it writes into the audit record are the endpoint's own;
only who calls is settled here, and rate limits do not apply.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from django.core.handlers.wsgi import WSGIRequest
from django.urls import resolve
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from vault.actors import Actor
from vault.api.endpoints import ApiView, Declared
from vault.errors import NotFound
from vault.models import User

PREFIX = "/api/v1/"


class AnyDeclared(BasePermission):
    """Lets the local caller in to every handler that says what it is; what the actor may do is asked by the handler."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """See BasePermission."""
        return view.declared is not None and isinstance(request.auth, Actor)


class Unlimited(BaseThrottle):
    """Nobody is kept waiting on their own machine."""

    def allow_request(self, request: Request, view: Any) -> bool:
        """See BaseThrottle."""
        return True


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered: `data` is JSON's, or text for other media types."""

    status: int
    data: Any
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_problem(self) -> bool:
        """Whether it is an error."""
        return self.status >= 400


def local_actor(email: str | None) -> Actor:
    """Who acts: the named person with their own rights, or else this machine's operator, who may do everything.

    The audit record names the operator by the system's user and host. Raises NotFound.
    """
    if email is None:
        return Actor.system("cli", name=f"{system_user()}@{socket.gethostname()}")
    user = User.objects.filter(email__iexact=email, is_active=True).first()
    if user is None:
        raise NotFound(f"Nobody with the e-mail {email} may sign in here.", field="as")
    return Actor(user=user, via="cli")


def system_user() -> str:
    """The name of the user that runs this process; its number where it has none (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def declaration(method: str, path: str) -> Declared:
    """What the endpoint at `path` (below /api/v1/) declares for a method. Raises LookupError when there is none."""
    view: Any = resolve(PREFIX + path).func.view_class  # type: ignore[attr-defined]
    declared = getattr(getattr(view, method.lower(), None), "declared", None)
    if not isinstance(declared, Declared):
        raise LookupError(f"{method} {path} is no operation of the API")
    return declared


def call(
    actor: Actor, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None
) -> Answer:
    """Call an endpoint. `path` is below /api/v1/; lists in `query` are repeated parameters."""
    match = resolve(PREFIX + path)
    view_class: type[ApiView] = match.func.view_class  # type: ignore[attr-defined]
    raw = b"" if body is None else json.dumps(body).encode()
    http = WSGIRequest(
        {
            "REQUEST_METHOD": method,
            "PATH_INFO": PREFIX + path,
            "QUERY_STRING": urlencode(query or {}, doseq=True),
            "CONTENT_TYPE": "application/json" if raw else "",
            "CONTENT_LENGTH": str(len(raw)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(raw),
            "wsgi.url_scheme": "http",
            # The local operator looks and acts in one breath; there is no older reading to be compared with.
            "HTTP_IF_MATCH": "*",
        }
    )
    actor.request_id = actor.request_id or uuid4().hex
    http.request_id = actor.request_id  # type: ignore[attr-defined]
    # The REST framework's own way to settle who calls (its test client uses it too).
    http._force_auth_user = actor.user  # type: ignore[attr-defined]
    http._force_auth_token = actor  # type: ignore[attr-defined]
    response: Any = view_class.as_view(permission_classes=[AnyDeclared], throttle_classes=[Unlimited])(
        http, *match.args, **match.kwargs
    )
    if hasattr(response, "render"):
        response.render()
    content = b"".join(response.streaming_content) if response.streaming else response.content
    media_type = response.get("Content-Type", "").partition(";")[0]
    is_json = media_type in ("application/json", "application/problem+json")
    data = json.loads(content) if is_json and content else content.decode() or None
    return Answer(response.status_code, data, dict(response.items()))
