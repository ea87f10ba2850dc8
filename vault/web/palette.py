"""What the command palette finds in this room. Each room has such a module; xks/web/palette.py asks them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext, gettext_noop

from vault.actors import Actor
from vault.models import HsmConnection, Vault
from vault.permissions import Permission
from vault.services import vaults
from vault.web.navigation import sections

MOST = 6


@dataclass(frozen=True)
class Hit:
    """One line of the palette. `url` is opened; in the dialog when `dialog`."""

    group: str
    label: str
    url: str
    icon: str
    detail: str = ""
    dialog: bool = False


def page_hits(request: Any, vault: Vault | None, text: str) -> list[Hit]:
    """Pages of the side bar and of the account whose names hold the words."""
    found = [
        Hit(gettext_noop("Go to"), link.label, link.url, link.icon)
        for section in sections(request, request.actor, vault)
        for link in section.links
    ]
    found += [
        Hit(gettext_noop("Go to"), gettext("Profile and time zone"), reverse("account"), "user"),
        Hit(gettext_noop("Go to"), gettext("Password"), reverse("account_change_password"), "lock"),
        Hit(
            gettext_noop("Go to"), gettext("Second factor and passkeys"), reverse("mfa_index"), "shield-check"
        ),
        Hit(gettext_noop("Go to"), gettext("Sessions"), reverse("usersessions_list"), "monitor"),
        Hit(gettext_noop("Go to"), gettext("Documentation"), reverse("docs"), "file-text"),
        Hit(gettext_noop("Go to"), "REST API", reverse("api-docs"), "braces"),
    ]
    return [hit for hit in found if holds(hit.label, text)]


def vault_hits(actor: Actor, vault: Vault | None, text: str) -> list[Hit]:
    """Vaults by name or id, and what can be done to vaults."""
    found: list[Hit] = []
    if actor.may(Permission.APPLIANCE_MANAGE_VAULTS) and holds(gettext("Create vault"), text):
        found.append(Hit(gettext_noop("Do"), gettext("Create vault"), reverse("vault-create"), "plus"))
    if (
        vault is not None
        and not vault.blocked
        and actor.may(Permission.VAULT_BLOCK, vault)
        and holds(gettext("Block vault"), text)
    ):
        found.append(
            Hit(
                gettext_noop("Do"),
                gettext("Block vault %(name)s") % {"name": vault.name},
                reverse("vault-block", args=[vault.pk]),
                "ban",
                dialog=True,
            )
        )
    if text:
        rows = vaults.visible_vaults(actor).filter(name__icontains=text).order_by("name")[:MOST]
        for row in rows:
            member = actor.role_in(row.pk) is not None
            url = reverse("vault-home" if member else "vault-detail", args=[row.pk])
            found.append(Hit(gettext_noop("Vaults"), row.name, url, "vault"))
    return found


def hsm_hits(actor: Actor, text: str) -> list[Hit]:
    """HSM connections by name, and connecting one; for those who look after the installation."""
    if not actor.may(Permission.APPLIANCE_VIEW_HSMS):
        return []
    found: list[Hit] = []
    if actor.may(Permission.APPLIANCE_MANAGE_HSMS) and holds(gettext("Connect HSM"), text):
        found.append(Hit(gettext_noop("Do"), gettext("Connect HSM"), reverse("hsm-create"), "plus"))
    if text:
        rows = HsmConnection.objects.filter(name__icontains=text).order_by("name")[:MOST]
        found += [Hit("HSMs", row.name, reverse("hsm", args=[row.pk]), "cpu") for row in rows]
    return found


def holds(label: str, text: str) -> bool:
    """Whether every word of `text` stands in `label`."""
    return all(word in label.lower() for word in text.lower().split())


def maybe_url(name: str, **kwargs: Any) -> str:
    """An address of a page that may not exist yet."""
    try:
        return reverse(name, kwargs=kwargs)
    except NoReverseMatch:
        return ""
