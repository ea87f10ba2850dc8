"""A person's own sessions."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext

from vault.errors import NotFound
from vault.services import sessions
from vault.web.frame import done, page, person_page


@person_page
def session_list(request: Any) -> HttpResponse:
    """GET, POST /accounts/sessions/: POST signs out everywhere else."""
    found = sessions.my_sessions(request.actor)
    here = request.session.session_key
    if request.method == "POST":
        others = [session for session in found if session.session_key != here]
        for session in others:
            sessions.revoke_session(request.actor, session.pk)
        return done(request, reverse("usersessions_list"), gettext("Signed out everywhere else."))
    for session in found:
        session.here = session.session_key == here
    return page(
        request, "usersessions/usersession_list.html", {"sessions": found, "session_count": len(found)}
    )


@person_page
def session_end(request: Any, session_id: int) -> HttpResponse:
    """POST /accounts/sessions/<id>/end/"""
    if request.method != "POST":
        raise NotFound("There is nothing here.")
    sessions.revoke_session(request.actor, session_id)
    return done(request, reverse("usersessions_list"), gettext("That session has ended."))
