"""What the command palette finds in this room: keys, key sets, accounts and stores of the present vault."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q

from cloudkeys.models import CloudKey, CspAccount, KeySet, XksKeyStore
from vault.actors import Actor
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import uuid_or_none
from vault.web.palette import MOST, Hit, maybe_url


def object_hits(actor: Actor, vault: Vault, text: str) -> Iterable[Hit]:
    """By the beginning of a name (an index answers), by id, external key id, alias or ARN."""
    found = uuid_or_none(text)
    if actor.may(Permission.CLOUD_KEYS_VIEW, vault):
        wanted = Q(name__istartswith=text)
        if found is not None:
            wanted |= Q(pk=found)
        if text.startswith("arn:"):
            wanted = Q(cloud_key_arn=text) if _has(CloudKey, "cloud_key_arn") else wanted
        if _has(CloudKey, "external_key_id"):
            wanted |= Q(external_key_id=text)
        keys = actor.visible(CloudKey).filter(wanted, vault=vault).exclude(state=CloudKey.State.DESTROYED)
        for key in keys.select_related("key_set").order_by("name")[:MOST]:
            url = maybe_url("cloud-key", vault_id=vault.pk, key_id=key.pk)
            yield Hit("Cloud keys", key.name, url, "key-round", key.key_set.name)
    for model, permission, name, argument, icon, group in (
        (KeySet, Permission.KEY_SETS_VIEW, "key-set", "key_set_id", "layers", "Key sets"),
        (CspAccount, Permission.CSP_ACCOUNTS_VIEW, "csp-account", "account_id", "cloud", "CSP accounts"),
    ):
        if not actor.may(permission, vault):
            continue
        wanted = Q(name__icontains=text) | (Q(pk=found) if found is not None else Q())
        for row in actor.visible(model).filter(wanted, vault=vault).order_by("name")[:MOST]:
            yield Hit(group, row.name, maybe_url(name, vault_id=vault.pk, **{argument: row.pk}), icon)
    if actor.may(Permission.XKS_STORES_VIEW, vault):
        wanted = Q(key_set__name__icontains=text) | (Q(pk=found) if found is not None else Q())
        for store in actor.visible(XksKeyStore).filter(wanted, vault=vault).select_related("key_set")[:MOST]:
            url = maybe_url("xks-store", vault_id=vault.pk, store_id=store.pk)
            yield Hit("External key stores", store.key_set.name, url, "plug")


def _has(model: type, name: str) -> bool:
    return any(field.name == name for field in model._meta.get_fields())  # type: ignore[attr-defined]
