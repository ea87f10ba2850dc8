"""What stands in the side bar, and where. Upper rooms' pages are known here by URL name alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext, gettext_noop

from vault.actors import Actor
from vault.models import Vault
from vault.permissions import Permission


@dataclass(frozen=True)
class Entry:
    """A place in the side bar. `name` is a URL name; in a vault it takes `vault_id`."""

    label: str
    icon: str
    name: str
    permission: Permission | None


IN_VAULT: tuple[Entry, ...] = (
    Entry(gettext_noop("Overview"), "layout-dashboard", "overview", Permission.VAULT_VIEW),
    Entry(gettext_noop("Cloud keys"), "key-round", "cloud-keys", Permission.CLOUD_KEYS_VIEW),
    Entry(gettext_noop("Key sets"), "layers", "key-sets", Permission.KEY_SETS_VIEW),
    Entry(gettext_noop("CSP accounts"), "cloud", "csp-accounts", Permission.CSP_ACCOUNTS_VIEW),
    Entry(gettext_noop("External key stores"), "plug", "xks-stores", Permission.XKS_STORES_VIEW),
    Entry(gettext_noop("Operations"), "list-checks", "operations", Permission.OPERATIONS_VIEW),
    Entry(gettext_noop("Audit"), "scroll-text", "audit", Permission.AUDIT_VIEW),
    Entry(gettext_noop("People"), "users", "people", Permission.MEMBERS_VIEW),
    Entry(gettext_noop("Settings"), "settings", "settings", Permission.VAULT_VIEW),
)
IN_APPLIANCE: tuple[Entry, ...] = (
    Entry(gettext_noop("Installation"), "layout-dashboard", "installation", Permission.APPLIANCE_VIEW_NODES),
    Entry(gettext_noop("Vaults"), "vault", "vaults", Permission.APPLIANCE_MANAGE_VAULTS),
    Entry(gettext_noop("Accounts"), "users", "accounts", Permission.APPLIANCE_MANAGE_USERS),
    Entry(gettext_noop("Nodes"), "server", "nodes", Permission.APPLIANCE_VIEW_NODES),
    Entry(gettext_noop("Certificates"), "badge-check", "certificates", Permission.APPLIANCE_VIEW_NODES),
    Entry("HSMs", "cpu", "hsms", Permission.APPLIANCE_VIEW_HSMS),
    Entry(gettext_noop("Audit"), "scroll-text", "appliance-audit", Permission.APPLIANCE_VIEW_AUDIT),
    Entry(gettext_noop("System"), "activity", "system", Permission.APPLIANCE_VIEW_NODES),
)


@dataclass(frozen=True)
class Link:
    """An entry that this person may open."""

    label: str
    icon: str
    url: str
    current: bool = False


@dataclass(frozen=True)
class Section:
    """Links under one title."""

    title: str
    links: tuple[Link, ...]


def _url(name: str, vault: Vault | None) -> str:
    try:
        return reverse(name, kwargs={"vault_id": vault.pk} if vault is not None else None)
    except NoReverseMatch:
        return ""  # tests/vault/web/test_navigation.py sees to it that every entry has its page


def _links(path: str, entries: Iterable[Entry], actor: Actor, vault: Vault | None) -> tuple[Link, ...]:
    found = []
    for entry in entries:
        if entry.permission is not None and not actor.may(entry.permission, vault):
            continue
        url = _url(entry.name, vault)
        if url:
            found.append((entry, url))
    # The longest address that the present one begins with: /v/<id>/ is the beginning of every other.
    here = max((url for _, url in found if path.startswith(url)), key=len, default="")
    return tuple(Link(gettext(entry.label), entry.icon, url, url == here) for entry, url in found)


def sections(request: HttpRequest, actor: Actor, vault: Vault | None) -> tuple[Section, ...]:
    """The side bar of this person in this vault."""
    found = []
    if vault is not None:
        found.append(Section("", _links(request.path, IN_VAULT, actor, vault)))
    found.append(Section(gettext("Appliance"), _links(request.path, IN_APPLIANCE, actor, None)))
    return tuple(section for section in found if section.links)


def first_page(actor: Actor, vault: Vault) -> str:
    """Where a vault begins for this person; empty when they may see nothing of it."""
    links = _links("", IN_VAULT, actor, vault)
    return links[0].url if links else ""
