"""Where one lands, the profile, and the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from vault.actors import Actor
from vault.models import Membership, Vault
from vault.permissions import Permission
from vault.web.frame import LAST_VAULT, page, person_page, vault_page
from vault.web.markdown import to_html
from vault.web.navigation import first_page

DOCS = Path(settings.BASE_DIR) / "docs"


@person_page
def home(request: Any) -> HttpResponse:
    """GET /: the vault that this session was in last, else the only one, else a choice; without any, the appliance's vaults."""
    mine = [
        (membership, url)
        for membership in Membership.objects.filter(user=request.actor.user)
        .exclude(vault__state=Vault.State.DESTROYED)
        .select_related("vault")
        .order_by("vault__name")
        if (url := _first_page(request.actor, membership))
    ]
    last = request.session.get(LAST_VAULT, "")
    for membership, url in mine:
        if len(mine) == 1 or str(membership.vault_id) == last:
            return HttpResponseRedirect(url)
    if not mine and request.actor.is_appliance_admin:
        return HttpResponseRedirect(reverse("vaults"))
    return page(request, "vault/home.html", {"mine": mine})


def _first_page(actor: Actor, membership: Membership) -> str:
    # What was read is not asked for again, vault by vault.
    actor._memberships.setdefault(membership.vault_id, membership)
    return first_page(actor, membership.vault)


@vault_page(Permission.VAULT_VIEW)
def vault_home(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/home/: the first page of that vault that this person may see."""
    return HttpResponseRedirect(first_page(request.actor, vault) or reverse("home"))


@person_page
def docs(request: Any, name: str = "") -> HttpResponse:
    """GET /docs/, /docs/<name>/: the product's own documentation, as it was shipped."""
    files = {path.stem: path for path in sorted(DOCS.glob("*.md"))}
    if not name:
        pages = [(stem, _title(path)) for stem, path in files.items()]
        return page(request, "vault/docs_index.html", {"pages": pages})
    if name not in files:
        raise Http404
    text = files[name].read_text("utf-8")
    return page(request, "vault/docs_page.html", {"title": _title(files[name]), "body": to_html(text)})


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip() or path.stem
