"""Somebody with a one-time password, or without the second factor that a vault demands, sees only the pages that mend it.

The API has the same rules in its own frame.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from vault.services import second_factor, sessions

_ENROLMENT = "/accounts/2fa/"


class PasswordGateMiddleware:
    """Sends page requests of somebody who must change the password, or set up a second factor, to the page that does so.

    Notes the session's use.
    """

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
        elif (
            request.user.is_authenticated
            and not self._mends(request)
            and second_factor.must_enrol(request.user)
        ):
            return HttpResponseRedirect(reverse("mfa_activate_totp"))
        if request.user.is_authenticated:
            sessions.note_use(request, request.META.get("REMOTE_ADDR") or None)
        return self.get_response(request)

    @staticmethod
    def _mends(request: HttpRequest) -> bool:
        """Whether the page is one on which a second factor is set up, or the way out."""
        ways = (
            reverse("account_logout"),
            reverse("account_reauthenticate"),
            reverse("account_change_password"),
        )
        return request.path_info.startswith((_ENROLMENT, "/static/")) or request.path_info in ways
