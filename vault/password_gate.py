"""Somebody with a one-time password sees one page only, until it is changed. The API has the same rule in its own frame."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from vault.services import sessions


class PasswordGateMiddleware:
    """Sends page requests of somebody who must change the password to the page that does so; notes the session's use."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Redirect, or hand on."""
        if request.path_info.startswith("/api/"):
            return self.get_response(request)
        if getattr(request.user, "must_change_password", False):
            page = reverse("account_change_password")
            if request.path_info not in (page, reverse("account_logout")):
                return HttpResponseRedirect(page)
        if request.user.is_authenticated:
            sessions.note_use(request, request.META.get("REMOTE_ADDR") or None)
        return self.get_response(request)
