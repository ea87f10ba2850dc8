"""How often a store, and each of its credentials, may be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from cloudkeys.models import XksKeyStore
from cloudkeys.services.rows import require_live_vault, save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import ValidationFailed, check_revision
from vault.models import GenerationChange
from vault.permissions import Permission
from xks.models import StoreLimits

LEAST_PER_S = 1
MOST_PER_S = 1_000_000
_FIELDS = ("requests_per_s", "credential_requests_per_s")


def fetch_store_limits(actor: Actor, store_id: UUID) -> StoreLimits:
    """The store's limits; unsaved and without any when none were ever set. Raises NotFound."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
    return StoreLimits.objects.filter(store=store).first() or StoreLimits(vault=store.vault, store=store)


def update_store_limits(
    actor: Actor, store_id: UUID, changes: Mapping[str, Any], *, expected_revision: int | None = None
) -> tuple[StoreLimits, int]:
    """Set or (None) lift a limit, requests a second for the whole fleet; returns the generation to wait for.

    Raises ValidationFailed, StaleRevision.
    """
    for name, value in changes.items():
        if name not in _FIELDS:
            raise TypeError(f"a store has no limit {name}")
        if value is not None and not LEAST_PER_S <= value <= MOST_PER_S:
            raise ValidationFailed(
                f"A limit is {LEAST_PER_S} to {MOST_PER_S:,} requests a second.",
                field=name,
                cure="Give null for no limit; to stop all use, block the store.",
            )
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE, lock=True)
        require_live_vault(store.vault)
        limits, _ = StoreLimits.objects.get_or_create(store=store, defaults={"vault": store.vault})
        check_revision(limits, expected_revision)
        before = snapshot(limits, *_FIELDS)
        for name, value in changes.items():
            setattr(limits, name, value)
        after = snapshot(limits, *_FIELDS)
        if after != before:
            save_revision(limits, *_FIELDS)
            tx.audit(
                Action.STORE_LIMITS_UPDATE, limits, before=before, after=after, target_name=store.key_set.name
            )
            tx.touch(GenerationChange.Kind.STORE, store.pk)
    return limits, tx.generation or 0
