"""The command palette (Ctrl-K): asks every room below. No registry: this room may import them all."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django.http import HttpResponse

from cloudkeys.web.palette import object_hits
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import partial, person_page, uuid_or_none
from vault.web.palette import Hit, page_hits, vault_hits

_LONGEST = 300
_ORDER = ("Cloud keys", "Key sets", "CSP accounts", "External key stores", "Vaults", "Go to", "Do")


@person_page
def palette(request: Any) -> HttpResponse:
    """GET /palette/?q=&vault="""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:_LONGEST]
    vault = _vault(request)
    hits: list[Hit] = []
    if vault is not None and len(text) >= 2:
        hits += [hit for hit in object_hits(request.actor, vault, text) if hit.url]
    hits += vault_hits(request.actor, vault, text) + page_hits(request, vault, text)
    hits.sort(key=lambda hit: _ORDER.index(hit.group))
    groups = [(name, list(found)) for name, found in groupby(hits, key=lambda hit: hit.group)]
    return partial(request, "xks/palette.html", {"groups": groups, "text": text})


def _vault(request: Any) -> Vault | None:
    found = uuid_or_none(request.GET.get("vault", ""))
    if found is None:
        return None
    vault = request.actor.visible(Vault).filter(pk=found).first()
    return vault if vault is not None and request.actor.may(Permission.VAULT_VIEW, vault) else None
