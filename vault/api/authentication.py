"""Who sends a request: a session with its CSRF token, or an API token. Either way `request.actor` is the Actor."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.http import HttpRequest
from rest_framework import authentication, exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from vault.actors import Actor
from vault.errors import PasswordChangeRequired, SignInFailed
from vault.services import second_factor, sessions, tokens


def source_ip(request: HttpRequest | Request) -> str | None:
    """The caller's address; vault.middleware has already looked through trusted proxies."""
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")))
    except ValueError:
        return None  # a Unix socket has none


def request_id(request: HttpRequest | Request) -> str:
    """The id that vault.middleware gave this request; it stands in the log, in audit events and in problems."""
    django_request = getattr(request, "_request", request)
    return str(getattr(django_request, "request_id", ""))[:64]


class BearerAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer kst_...` (RFC 6750); `request.auth` is the Actor."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        """The token's owner and actor; None when another scheme, or none, was used. Raises AuthenticationFailed."""
        scheme, _, credentials = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        address = source_ip(request)
        try:
            token = tokens.authenticate_token(credentials.strip(), source_ip=address)
        except SignInFailed as error:
            raise exceptions.AuthenticationFailed(error.message) from None
        actor = Actor(
            user=token.user, token=token, via="api", source_ip=address, request_id=request_id(request)
        )
        return token.user, actor

    def authenticate_header(self, request: Request) -> str:
        """For WWW-Authenticate; without one the REST framework would answer 403 in place of 401."""
        return 'Bearer realm="Keystead"'


class SessionAuthentication(authentication.SessionAuthentication):
    """The session cookie; changing requests need the CSRF token too. `request.auth` is the Actor."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        """The signed-in user and actor, or None. Raises PermissionDenied when the CSRF token is missing or wrong."""
        found = super().authenticate(request)
        if found is None:
            return None
        user, address = found[0], source_ip(request)
        sessions.note_use(request._request, address)
        return user, Actor(user=user, via="api", source_ip=address, request_id=request_id(request))


class OperationAccess(BasePermission):
    """What `vault.api.endpoints.operation` declared for the handler. A handler without that declaration is refused."""

    message = "This address has no permission rule."

    def has_permission(self, request: Request, view: Any) -> bool:
        """True, False (401 or 403 follows), PasswordChangeRequired or SecondFactorEnrolmentRequired."""
        declared = view.declared
        if declared is None:
            return False
        if declared.access == "anyone":
            return True
        actor = request.auth
        if not isinstance(actor, Actor) or actor.user is None:
            return False
        if actor.user.must_change_password and declared.access != "one_time_password":
            raise PasswordChangeRequired(
                "You are signed in with a one-time password; nothing else is allowed yet."
            )
        if actor.token is None and declared.access != "one_time_password":
            second_factor.require_enrolled(actor.user)
        return True
