"""Where an object's own page is, by the words that operations, audit events, attention and search use for its kind."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cloudkeys.models import AwsStoreLink
from vault.models import Vault
from vault.web.palette import maybe_url

_PAGES = {
    "cloudkey": ("cloud-key", "key_id"),
    "keyset": ("key-set", "key_set_id"),
    "cspaccount": ("csp-account", "account_id"),
    "xkskeystore": ("xks-store", "store_id"),
    "xksstore": ("xks-store", "store_id"),
    "operation": ("operation", "operation_id"),
}


def object_url(vault: Vault, kind: str, object_id: Any) -> str:
    """The page of an object of this vault; empty when it has none. An AWS store link's is that of its store: one query.

    `kind` is a model's name with or without underscores (cloud_key, cloudkey).
    """
    word = kind.replace("_", "").lower()
    if word == "vault":
        return maybe_url("overview", vault_id=vault.pk)
    try:
        pk = object_id if isinstance(object_id, UUID) else UUID(str(object_id))
    except ValueError:
        return ""
    if word == "awsstorelink":
        link = AwsStoreLink.objects.filter(vault=vault, pk=pk).values_list("store_id", flat=True).first()
        return maybe_url("xks-store", vault_id=vault.pk, store_id=link) if link is not None else ""
    if word not in _PAGES:
        return ""
    name, argument = _PAGES[word]
    return maybe_url(name, vault_id=vault.pk, **{argument: pk})
