"""What stands around each of a store's pages: its state, its tabs, who may do what."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from cloudkeys.models import AwsStoreLink, XksKeyStore
from cloudkeys.naming import XKS_API_PATH
from vault.errors import NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import Can, can

TABS = (
    ("xks-store", gettext_noop("Overview"), None),
    ("xks-store-credentials", gettext_noop("Credentials"), None),
    ("xks-store-rules", gettext_noop("Access rules"), Permission.ACCESS_RULES_VIEW),
    ("xks-store-doctor", gettext_noop("Doctor"), None),
    ("xks-store-traffic", gettext_noop("Traffic"), None),
    ("xks-store-requests", gettext_noop("Requests"), Permission.AUDIT_VIEW),
    ("xks-store-limits", gettext_noop("Limits"), None),
)
_WORST = (
    "FAILED",
    "GONE",
    "DISCONNECTED",
    "DISCONNECTING",
    "CONNECTING",
    "PENDING",
    "NOT_LINKED",
    "CONNECTED",
)


def find_store(
    request: Any, vault: Vault, store_id: UUID, permission: Permission = Permission.XKS_STORES_VIEW
) -> XksKeyStore:
    """A store of this vault, with its key set and account. Raises NotFound, PermissionDenied."""
    request.actor.fetch(XksKeyStore, store_id, permission)
    rows = request.actor.visible(XksKeyStore).select_related("vault", "key_set__csp_account")
    store: XksKeyStore | None = rows.filter(vault=vault, pk=store_id).first()
    if store is None:
        raise NotFound("There is no such external key store in this vault.")
    return store


def store_url(name: str, store: XksKeyStore, **more: Any) -> str:
    """An address of the store."""
    return reverse(name, kwargs={"vault_id": store.vault_id, "store_id": store.pk, **more})


def store_state(store: XksKeyStore, links: list[AwsStoreLink]) -> str:
    """One word for a store: BLOCKED, or the worst state of its regions."""
    if store.blocked or store.vault.blocked:
        return "BLOCKED"
    states = {link.state for link in links}
    return next((state for state in _WORST if state in states), "NOT_LINKED")


def is_simulated(store: XksKeyStore) -> bool:
    """Whether its account lives in the bundled simulator."""
    account = store.key_set.csp_account
    return account is not None and account.is_simulated


def store_context(
    request: Any, store: XksKeyStore, tab: str, links: list[AwsStoreLink] | None = None
) -> dict[str, Any]:
    """What templates/xks/stores/frame.html draws."""
    if links is None:
        links = list(store.links.order_by("region"))
    actor = request.actor
    tabs = [
        (label, store_url(name, store), name == tab)
        for name, label, permission in TABS
        if permission is None or actor.may(permission, store.vault)
    ]
    return {
        "store": store,
        "links": links,
        "tabs": tabs,
        "uri_path": store.path_prefix + XKS_API_PATH,
        "state": store_state(store, links),
        "is_simulated": is_simulated(store),
        "can_manage": living(store, can(actor, Permission.XKS_STORES_MANAGE, store)),
        "can_block": can(actor, Permission.XKS_STORES_BLOCK, store),
        "can_unblock": can(actor, Permission.XKS_STORES_UNBLOCK, store),
        "can_credentials": living(store, can(actor, Permission.XKS_CREDENTIALS_MANAGE, store)),
        "can_rules": living(store, can(actor, Permission.ACCESS_RULES_MANAGE, store)),
    }


def living(store: XksKeyStore, allowed: Can) -> Can:
    """Nothing is changed in a vault that is switched off."""
    if allowed and store.vault.state != Vault.State.ENABLED:
        return Can(False, gettext("The vault is switched off: nothing in it can be changed meanwhile."))
    return allowed
