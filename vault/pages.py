"""The few pages that are not allauth's: the first page, and what is shown when something is wrong."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from vault.api.problems import problem_response


@require_safe
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """Where one lands after signing in."""
    return render(request, "vault/home.html")


def _page(request: HttpRequest, status: int, title: str, words: str, code: str) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return problem_response(request, code, words)
    context = {"title": title, "words": words, "request_id": getattr(request, "request_id", "")}
    return render(request, "vault/problem.html", context, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400: among others a Host header that is not ours."""
    words = "The request is malformed, or came under a host name that this server does not answer to."
    return _page(request, 400, "This request cannot be read", words, "bad_request")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return _page(request, 403, "Not allowed", "You may not see this.", "permission_denied")


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return _page(
        request, 404, "There is nothing here", "The address is wrong, or what it named is gone.", "not_found"
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """500, without any detail; the log has it under the request id."""
    words = "Keystead failed. Try again later; whoever runs it finds the cause in the log."
    return _page(request, 500, "Something went wrong", words, "internal_error")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 of Django's CSRF check."""
    words = "This form was open for too long, or cookies are off. Go back, reload the page and try again."
    return _page(request, 403, "The form could not be checked", words, "csrf_failed")
