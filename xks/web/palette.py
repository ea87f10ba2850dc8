"""The command palette (Ctrl-K): asks every room below. No registry: this room may import them all."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from cloudkeys.web.palette import making_hits, object_hits
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import partial, person_page, uuid_or_none
from vault.web.palette import Hit, holds, hsm_hits, maybe_url, page_hits, vault_hits

_LONGEST = 300
_REQUEST_ID = re.compile(r"[0-9a-f]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ORDER = (
    gettext_noop("Cloud keys"),
    gettext_noop("Key sets"),
    gettext_noop("CSP accounts"),
    gettext_noop("External key stores"),
    gettext_noop("Operations"),
    gettext_noop("People"),
    gettext_noop("Vaults"),
    "HSMs",
    gettext_noop("Go to"),
    gettext_noop("Do"),
)


@person_page
def palette(request: Any) -> HttpResponse:
    """GET /palette/?q=&vault="""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:_LONGEST]
    vault = _vault(request)
    hits: list[Hit] = []
    if vault is not None and len(text) >= 2:
        hits += object_hits(request.actor, vault, text)
    if vault is not None:
        hits += [*making_hits(request.actor, vault, text), *_record_hits(request, vault, text)]
    hits += vault_hits(request.actor, vault, text) + page_hits(request, vault, text)
    hits += hsm_hits(request.actor, text)
    hits.sort(key=lambda hit: _ORDER.index(hit.group))
    groups = [(name, list(found)) for name, found in groupby(hits, key=lambda hit: hit.group)]
    return partial(request, "xks/palette.html", {"groups": groups, "text": text})


def _record_hits(request: Any, vault: Vault, text: str) -> list[Hit]:
    """The audit record of what was typed: a person, an object, a request id; and requests by AWS's id."""
    found = []
    if request.actor.may(Permission.AUDIT_VIEW, vault):
        url = reverse("audit", args=[vault.pk])
        if "@" in text and " " not in text:
            found.append(
                Hit(
                    gettext_noop("Do"),
                    gettext("Show what %(text)s did") % {"text": text},
                    f"{url}?{urlencode({'person': text})}",
                    "scroll-text",
                )
            )
        if _REQUEST_ID.fullmatch(text):
            found.append(
                Hit(
                    gettext_noop("Do"),
                    gettext("Show events of this request"),
                    f"{url}?{urlencode({'request_id': text})}",
                    "scroll-text",
                )
            )
        if holds(gettext("Show refused attempts"), text):
            found.append(
                Hit(
                    gettext_noop("Do"),
                    gettext("Show refused attempts"),
                    f"{url}?outcome=DENIED",
                    "scroll-text",
                )
            )
    requests_url = maybe_url("xks-requests", vault_id=vault.pk)
    if (
        requests_url
        and request.actor.may(Permission.XKS_STORES_VIEW, vault)
        and holds(gettext("Find a request"), text)
    ):
        found.append(Hit(gettext_noop("Do"), gettext("Find a request by AWS's id"), requests_url, "search"))
    return found


def _vault(request: Any) -> Vault | None:
    found = uuid_or_none(request.GET.get("vault", ""))
    if found is None:
        return None
    vault = request.actor.visible(Vault).filter(pk=found).first()
    return vault if vault is not None and request.actor.may(Permission.VAULT_VIEW, vault) else None
