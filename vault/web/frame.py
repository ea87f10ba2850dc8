"""The frame of a page: who may open it, what stands around it, and what becomes of errors.

`vault_page`, `appliance_page` and `person_page` make a view; `page` renders, `done` ends a form, `can` says whether and why not.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext

from vault.actors import Actor
from vault.api.authentication import request_id, source_ip
from vault.api.problems import PROBLEMS
from vault.errors import DomainError, NotFound, PermissionDenied
from vault.models import Membership, User, Vault
from vault.permissions import Permission
from vault.web import once, root_sight
from vault.web.navigation import Section, sections

logger = logging.getLogger("keystead.web")
View = Callable[..., HttpResponse]
METHODS = ("GET", "HEAD", "POST")
THEMES = ("light", "dark")
LAST_VAULT = "last-vault"
_MOST_SWITCHED = 30


class WebRequest(HttpRequest):
    """For annotations: what the frame adds to a request before a view sees it."""

    actor: Actor
    htmx: Any
    vault: Vault | None


@dataclass(frozen=True)
class Can:
    """Whether somebody may do something; `why_not` is a sentence for the one who may not."""

    allowed: bool
    why_not: str = ""

    def __bool__(self) -> bool:
        return self.allowed


def can(actor: Actor, permission: Permission, target: Any = None) -> Can:
    """Ask before showing a button: absent when the thing is not for that role at all, disabled with the reason otherwise."""
    try:
        actor.require(permission, target)
    except (PermissionDenied, NotFound) as error:
        return Can(False, f"{error.message} {error.cure}".strip())
    return Can(True)


def web_actor(request: HttpRequest) -> Actor:
    """The signed-in person behind a page."""
    user = request.user if isinstance(request.user, User) else None
    return Actor(user=user, via="web", source_ip=source_ip(request), request_id=request_id(request))


# --- views --------------------------------------------------------------------------------------------------------


def vault_page(permission: Permission, *, methods: tuple[str, ...] = METHODS) -> Callable[[View], View]:
    """A page of one vault, under /v/<uuid:vault_id>/. The view gets (request, vault, ...); a foreign vault is 404."""

    def find(actor: Actor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return (actor.fetch(Vault, kwargs.pop("vault_id"), permission),)

    return _page_maker(find, methods)


def appliance_page(permission: Permission, *, methods: tuple[str, ...] = METHODS) -> Callable[[View], View]:
    """A page of the appliance, under /appliance/. The view gets (request, ...); others than the appliance admin see 404."""

    def find(actor: Actor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if not actor.may(permission):
            raise NotFound("There is nothing here, or it is not for you.")
        return ()

    return _page_maker(find, methods)


def person_page(view: View) -> View:
    """A page for everybody who is signed in. The view gets (request, ...)."""
    return _page_maker(lambda actor, kwargs: (), METHODS)(view)


def _page_maker(
    find: Callable[[Actor, dict[str, Any]], tuple[Any, ...]], methods: tuple[str, ...]
) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        @functools.wraps(view)
        def run(request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.method not in methods:
                return HttpResponseNotAllowed(methods)
            if not request.user.is_authenticated:
                return _sign_in_first(request)
            request.actor = web_actor(request)
            request.vault = None
            try:
                found = find(request.actor, kwargs)
                if found and isinstance(found[0], Vault):
                    request.vault = found[0]
                    _remember_vault(request, found[0])
                return view(request, *found, *args, **kwargs)
            except once.AlreadyDone as error:
                if not error.url:
                    return problem(request, error)
                return done(request, error.url, error.message, level=messages.INFO)
            except DomainError as error:
                return problem(request, error)
            except DatabaseError as error:
                from vault.pages import database_unreachable, is_unreachable

                if not is_unreachable(error):
                    raise
                logger.exception("the database does not answer")
                return database_unreachable(request)

        run.is_page = True  # type: ignore[attr-defined]
        return run

    return decorate


def _sign_in_first(request: HttpRequest) -> HttpResponse:
    """401 for a part (the script then offers to sign in elsewhere), else the sign-in page and back to where the form was."""
    if request.headers.get("HX-Request"):
        return HttpResponse(status=401)
    back = request.get_full_path()
    if request.method == "POST":
        back = form_page(request) or f"{request.path}?restore=1"
    return HttpResponseRedirect(f"{reverse('account_login')}?{urlencode({'next': back})}")


def _remember_vault(request: Any, vault: Vault) -> None:
    if request.session.get(LAST_VAULT) != str(vault.pk):
        request.session[LAST_VAULT] = str(vault.pk)


# --- rendering ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shell:
    """What stands around a page."""

    vault: Vault | None
    role: str
    sections: tuple[Section, ...]
    memberships: tuple[Membership, ...]
    is_appliance_admin: bool


def shell(request: Any, actor: Actor, vault: Vault | None = None) -> Shell:
    """One query, whatever the number of vaults."""
    mine = tuple(
        Membership.objects.filter(user=actor.user)
        .exclude(vault__state=Vault.State.DESTROYED)
        .select_related("vault")
        .order_by("vault__name")[:_MOST_SWITCHED]
    )
    for membership in mine:
        actor._memberships.setdefault(membership.vault_id, membership)
    if vault is None:
        # Outside any vault (account, appliance) the side bar still leads back to the last one.
        last = request.session.get(LAST_VAULT, "")
        vault = next((m.vault for m in mine if str(m.vault_id) == last), mine[0].vault if mine else None)
    role = actor.role_in(vault.pk) if vault is not None else None
    return Shell(
        vault, role.label if role else "", sections(request, actor, vault), mine, actor.is_appliance_admin
    )


def page(
    request: Any,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    part: tuple[str, str] | None = None,
    status: int = 200,
) -> HttpResponse:
    """Render a page. `part` is (id, template): when htmx asks for the element with that id, only that template is rendered.

    The template finds: actor, vault (of the address), shell, and what `context` holds.
    """
    actor: Actor = request.actor
    values = {"actor": actor, "vault": request.vault, **(context or {})}
    htmx = getattr(request, "htmx", None)
    if part is not None and htmx and htmx.target == part[0] and not htmx.history_restore_request:
        response = render(request, part[1], values, status=status)
        _trigger_messages(request, response)
    else:
        values["shell"] = shell(request, actor, request.vault)
        values["root_away"] = root_sight.current()
        response = render(request, template, values, status=status)
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


def partial(request: Any, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """Render a part alone, without anything around it, for an address that only htmx asks."""
    values = {"actor": request.actor, "vault": request.vault, **context}
    response = render(request, template, values, status=status)
    _trigger_messages(request, response)
    return response


def _trigger_messages(request: Any, response: HttpResponse) -> None:
    waiting = [
        {"level": message.level_tag, "text": str(message)} for message in messages.get_messages(request)
    ]
    if waiting:
        response["HX-Trigger"] = json.dumps({"toast": waiting[-1]})


def done(request: Any, url: str, text: str = "", *, level: int = messages.SUCCESS) -> HttpResponse:
    """End a form that did its work: say so in a toast and go to `url`. A repeat of the same form goes there too."""
    once.remember(request, url)
    if text:
        messages.add_message(request, level, text)
    if request.headers.get("HX-Request"):
        return HttpResponse(status=204, headers={"HX-Redirect": url})
    return HttpResponseRedirect(url, status=303)


def toast(request: Any, text: str, *, level: int = messages.SUCCESS) -> None:
    """Say something on the next page, or with the part that is rendered now."""
    messages.add_message(request, level, text)


def problem(request: Any, error: DomainError) -> HttpResponse:
    """A domain error that no form has caught, as a page of its own or, for htmx, as a toast."""
    kind = PROBLEMS.get(error.code, PROBLEMS["error"])
    cure = error.cure or ("" if kind.status == 404 else kind.cure)
    if request.headers.get("HX-Request"):
        told = {"toast": {"level": "error", "text": error.message, "cure": cure}}
        return HttpResponse(status=kind.status, headers={"HX-Trigger": json.dumps(told)})
    title = gettext("There is nothing here") if kind.status == 404 else kind.title
    context = {
        "title": title,
        "words": error.message,
        "cure": cure,
        "status": kind.status,
        "back": back_url(request),
        "request_id": getattr(request, "request_id", ""),
    }
    return render(None, "vault/problem.html", context, status=kind.status)  # type: ignore[arg-type]


def form_page(request: HttpRequest) -> str:
    """The page of ours that held the form which was sent; there static/vault/js/drafts.js puts back what was typed."""
    came_from = urlsplit(request.META.get("HTTP_REFERER", ""))
    if came_from.netloc != request.get_host() or came_from.path.startswith("//"):
        return ""
    return f"{came_from.path}?restore=1"


def back_url(request: HttpRequest) -> str:
    """The page of ours that somebody came from, for a link back; empty when they came from elsewhere."""
    came_from = request.META.get("HTTP_REFERER", "")
    if not came_from or not url_has_allowed_host_and_scheme(came_from, allowed_hosts={request.get_host()}):
        return ""
    parts = urlsplit(came_from)
    if parts.path == request.path or not parts.path.startswith("/") or parts.path.startswith("//"):
        return ""
    return parts.path + (f"?{parts.query}" if parts.query else "")


def preferences(request: HttpRequest) -> dict[str, Any]:
    """Context processor: the looks that the person chose, in whichever browser; before sign-in, what this browser has in cookies."""
    user = getattr(request, "user", None)
    if isinstance(user, User):
        wishes = getattr(user, "preferences", None)  # came with the user: vault/sign_in_backend.py
        theme, density = (wishes.theme, wishes.density) if wishes is not None else ("", "")
    else:
        theme, density = (
            request.COOKIES.get("keystead-theme", ""),
            request.COOKIES.get("keystead-density", ""),
        )
    return {
        "theme": theme if theme in THEMES else "",
        "density": "compact" if density == "compact" else "",
        "mail_configured": settings.MAIL_CONFIGURED,
        "simulator": settings.KEYSTEAD_SIMULATOR,
    }


def uuid_or_none(text: str) -> UUID | None:
    """A UUID from an address or a field; None when it is none."""
    try:
        return UUID(text)
    except (ValueError, AttributeError):
        return None
