"""What is shown when something is wrong, whoever asks. Drawn without a session or a database, which may be what failed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string

from vault.api.problems import problem_response


def with_mail(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """That page exists only where mail is set up."""

    @functools.wraps(view)
    def run(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        if not settings.MAIL_CONFIGURED:
            raise Http404
        return view(request, *args, **kwargs)

    return run


def _page(
    request: HttpRequest,
    status: int,
    title: str,
    words: str,
    code: str,
    *,
    back: str = "",
    back_words: str = "",
) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return problem_response(request, code, words)
    context = {
        "title": title,
        "words": words,
        "status": status,
        "back": back,
        "back_words": back_words,
        "request_id": getattr(request, "request_id", ""),
    }
    return HttpResponse(render_to_string("vault/problem.html", context), status=status)


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


def is_unreachable(error: BaseException | None) -> bool:
    """Whether the database itself does not answer, rather than refusing one statement."""
    return isinstance(error, OperationalError | InterfaceError)


def database_unreachable(request: HttpRequest) -> HttpResponse:
    """503: the vault's pages wait, its keys do not."""
    words = (
        "The database does not answer, so nothing can be shown or changed just now. Nodes go on serving keys from memory for a "
        "stated time. Try again in a moment."
    )
    answer = _page(
        request,
        503,
        "The database cannot be reached",
        words,
        "unavailable",
        back=request.get_full_path(),
        back_words="Try again",
    )
    answer["Retry-After"] = "5"
    return answer


def server_error(request: HttpRequest) -> HttpResponse:
    """500, without any detail; the log has it under the request id. A database that does not answer is 503."""
    if is_unreachable(sys.exc_info()[1]):
        return database_unreachable(request)
    words = "Keystead failed. Try again later; whoever runs it finds the cause in the log."
    return _page(request, 500, "Something went wrong", words, "internal_error")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 of Django's CSRF check. The form's page puts back what was typed (static/vault/js/drafts.js)."""
    from vault.web.frame import back_url, form_page

    words = "This form was open for too long, you have signed in anew since, or cookies are off. Nothing was done."
    back = form_page(request) or back_url(request)
    told = (
        "Open the form again: what you typed comes back."
        if back
        else "Go back, reload the page and try again."
    )
    return _page(
        request,
        403,
        "The form could not be checked",
        f"{words} {told}",
        "csrf_failed",
        back=back,
        back_words="Open the form again",
    )
