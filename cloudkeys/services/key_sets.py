"""Key sets: made with their external key store, changed with effect on every key that inherits, deleted when empty."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from cloudkeys import naming
from cloudkeys.models import CloudKey, CspAccount, KeySet, Operation, XksKeyStore
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services.credentials import NewCredential, add_credential
from cloudkeys.services.due_dates import spread_expiration, spread_schedule
from cloudkeys.services.protection import Chosen, choose_protection
from cloudkeys.services.rows import (
    find_group,
    is_constraint,
    require_free_name,
    require_live_vault,
    save_revision,
)
from cloudkeys.services.stores import (
    LinkRequest,
    add_health_check_key,
    add_link,
    prefix_taken,
)
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change, snapshot
from vault.errors import Conflict, ValidationFailed, check_revision
from vault.models import GenerationChange, Vault
from vault.permissions import Permission

_AUDITED = (
    "name",
    "description",
    "group",
    "csp_account",
    "type",
    "protection",
    "hsm_connection",
    "hsm_replication",
    "rotation_schedule",
    "expiration",
)


@dataclass(frozen=True)
class KeySetCreated:
    """A new key set; with an external key store also its first credential (shown once) and the work begun in AWS."""

    key_set: KeySet
    store: XksKeyStore | None = None
    credential: NewCredential | None = None
    operations: list[Operation] = field(default_factory=list)


def create_key_set(
    actor: Actor,
    vault: Vault,
    *,
    name: str,
    csp_account: UUID | None,
    description: str = "",
    group: UUID | None = None,
    type: str = KeySet.Type.AWS,
    protection: str = KeySet.Protection.SOFTWARE,
    hsm_connection: UUID | None = None,
    hsm_replication: str | None = None,
    use_as_external_key_store: bool = False,
    path_prefix: str | None = None,
    links: Sequence[LinkRequest] = (),
    rotation_schedule: Mapping[str, Any] | None = None,
    expiration: Mapping[str, Any] | None = None,
) -> KeySetCreated:
    """Make a key set and, when wished, its proxy face, health-check key, first credential and AWS store links.

    `path_prefix` None makes one of its own; "" means that the access key id alone tells the store (the KeyControl
    guide's way; AWS takes an empty prefix once per endpoint, account and region). `hsm_connection` may be left out where
    the vault may use one HSM only; `hsm_replication` None leaves it to Keystead how keys reach its members.
    Raises ValidationFailed, and Unavailable when that HSM does not answer.
    """
    actor.require(Permission.KEY_SETS_MANAGE, vault)
    require_live_vault(vault)
    key_set = KeySet(
        vault=vault, name=naming.check_name(name), description=description, type=type, protection=protection
    )
    key_set.group = find_group(vault, group)
    key_set.csp_account = _find_account(vault, csp_account)
    if key_set.csp_account is not None:
        # A key set acts with the account's credential, so its group has a say, as in every other use of the account.
        actor.require(Permission.KEY_SETS_MANAGE, key_set.csp_account)
    _check(key_set)
    _set_schedules(key_set, rotation_schedule or {"kind": "none"}, expiration or {"kind": "never"})
    if links and not use_as_external_key_store:
        raise ValidationFailed(
            "AWS stores belong to an external key store.",
            field="links",
            cure="Set use_as_external_key_store, or leave the links out.",
        )
    require_free_name(KeySet, vault, key_set.name)
    chosen = choose_protection(key_set, protection, hsm_connection, hsm_replication)
    with change(actor) as tx:
        require_free_name(KeySet, vault, key_set.name)
        chosen.put(key_set)
        key_set.save(force_insert=True)
        tx.audit(Action.KEY_SET_CREATE, key_set, after=snapshot(key_set, *_AUDITED))
        if not use_as_external_key_store:
            return KeySetCreated(key_set)
        store, credential = _add_store(tx, key_set, path_prefix)
        operations = []
        for index, request in enumerate(links):
            operation = add_link(actor, tx, store, request, field=f"links[{index}]").operation
            if operation is not None:
                operations.append(operation)
    return KeySetCreated(key_set, store, credential, operations)


def use_as_external_key_store(
    actor: Actor, key_set_id: UUID, *, path_prefix: str | None = None, expected_revision: int | None = None
) -> KeySetCreated:
    """Give an existing key set its proxy face. Raises Conflict when it has one."""
    with change(actor) as tx:
        key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_MANAGE, lock=True)
        require_live_vault(key_set.vault)
        check_revision(key_set, expected_revision)
        if XksKeyStore.objects.filter(key_set=key_set).exists():
            raise Conflict("This key set is used as external key store already.")
        tx.audit(Action.KEY_SET_UPDATE, key_set, detail={"use_as_external_key_store": True})
        store, credential = _add_store(tx, key_set, path_prefix)
        save_revision(key_set)
    return KeySetCreated(key_set, store, credential)


def update_key_set(
    actor: Actor, key_set_id: UUID, changes: Mapping[str, Any], *, expected_revision: int | None = None
) -> KeySet:
    """Change named fields. A new schedule or expiration reaches at once every key that has none of its own.

    A new `protection` (with `hsm_connection`, `hsm_replication`) is that of versions made from now on: the others keep
    theirs, and each key moves with its next rotation. Raises Unavailable when that HSM does not answer.
    """
    chosen = None
    if not {"protection", "hsm_connection", "hsm_replication"}.isdisjoint(changes):
        chosen = _choose(actor, key_set_id, changes)
    with change(actor) as tx:
        key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_MANAGE, lock=True)
        require_live_vault(key_set.vault)
        check_revision(key_set, expected_revision)
        before = snapshot(key_set, *_AUDITED)
        for name, value in changes.items():
            match name:
                case "name":
                    key_set.name = naming.check_name(value)
                case "description":
                    key_set.description = value
                case "group":
                    key_set.group = find_group(key_set.vault, value)
                case "rotation_schedule":
                    _set_schedules(key_set, value, key_set.expiration)
                case "expiration":
                    _set_schedules(key_set, key_set.rotation_schedule, value)
                case "protection" | "hsm_connection" | "hsm_replication":
                    pass
                case _:
                    raise ValidationFailed(
                        "This cannot be changed.", field=name, cure="Make a new key set instead."
                    )
        require_free_name(KeySet, key_set.vault, key_set.name, but=key_set.pk)
        if chosen is not None:
            chosen.put(key_set)
            store = XksKeyStore.objects.filter(key_set=key_set).first()
            if store is not None:
                tx.touch(GenerationChange.Kind.STORE, store.pk)
        save_revision(
            key_set, "name", "description", "group", "rotation_schedule", "expiration", "protection",
            "hsm_connection", "hsm_replication", "hsm_key", "kek_blob",
        )  # fmt: skip
        detail: dict[str, Any] = {}
        if key_set.rotation_schedule != before["rotation_schedule"]:
            detail["keys_that_follow_schedule"] = spread_schedule(key_set)
        if key_set.expiration != before["expiration"]:
            detail["keys_that_follow_expiration"] = spread_expiration(key_set)
        tx.audit(
            Action.KEY_SET_UPDATE, key_set, before=before, after=snapshot(key_set, *_AUDITED), detail=detail
        )
    return key_set


def delete_key_set(actor: Actor, key_set_id: UUID, *, expected_revision: int | None = None) -> None:
    """Delete a key set whose keys are all destroyed and whose AWS stores are gone. Raises Conflict naming what remains.

    With it go its proxy face, credentials and health-check key; destroyed keys' ids go with the store itself, whose
    path and credentials then answer to nobody.
    """
    with change(actor) as tx:
        key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_MANAGE, lock=True)
        check_revision(key_set, expected_revision)
        live = (
            key_set.cloud_keys.filter(kind=CloudKey.Kind.USER).exclude(state=CloudKey.State.DESTROYED).count()
        )
        if live:
            raise Conflict(
                f"This key set holds {live} key{'s' if live > 1 else ''} that are not destroyed.",
                cure="Schedule their deletion and wait for its end; data under them becomes unreadable for good.",
            )
        store = XksKeyStore.objects.filter(key_set=key_set).first()
        if store is not None:
            linked = list(
                store.links.filter(linked=True).exclude(state="GONE").values_list("name", flat=True)
            )
            if linked:
                raise Conflict(
                    f"AWS still has the key store {linked[0]}.", cure="Disconnect and delete it first."
                )
            for key_id in key_set.cloud_keys.values_list("pk", flat=True):
                tx.touch(GenerationChange.Kind.KEY, key_id)
            tx.touch(GenerationChange.Kind.STORE, store.pk)
        tx.audit(Action.KEY_SET_DELETE, key_set, before=snapshot(key_set, *_AUDITED))
        key_set.cloud_keys.all().delete()
        if store is not None:
            store.delete()
        key_set.delete()


def _add_store(tx: Change, key_set: KeySet, path_prefix: str | None) -> tuple[XksKeyStore, NewCredential]:
    prefix = f"/{secrets.token_hex(6)}" if path_prefix is None else naming.check_path_prefix(path_prefix)
    store = XksKeyStore(vault=key_set.vault, key_set=key_set, path_prefix=prefix)
    if prefix and XksKeyStore.objects.filter(path_prefix=prefix).exists():
        raise prefix_taken()
    try:
        store.save(force_insert=True)
    except IntegrityError as error:
        if is_constraint(error, "path_prefix_unique_unless_empty", "path_prefix"):
            raise prefix_taken() from None
        raise
    tx.audit(Action.XKS_STORE_CREATE, store, after=snapshot(store, "path_prefix"), target_name=key_set.name)
    tx.touch(GenerationChange.Kind.STORE, store.pk)
    # AWS asks health while it makes the store, so the test key comes first (CCKM: "must be created before").
    add_health_check_key(tx, store)
    return store, add_credential(tx, store)


def _find_account(vault: Vault, account_id: UUID | None) -> CspAccount | None:
    if account_id is None:
        return None
    account = CspAccount.objects.filter(vault=vault, pk=account_id).first()
    if account is None:
        raise ValidationFailed(
            "There is no such CSP account in this vault.",
            field="csp_account",
            cure="Add one, or pick one of the vault's.",
        )
    return account


def _choose(actor: Actor, key_set_id: UUID, changes: Mapping[str, Any]) -> Chosen:
    """What a new protection needs, got from the HSM before any row is locked."""
    key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_MANAGE)
    require_live_vault(key_set.vault)
    protection = changes.get("protection", key_set.protection)
    held = key_set.hsm_connection_id if protection != KeySet.Protection.SOFTWARE else None
    replication = changes.get("hsm_replication") or "" if "hsm_replication" in changes else None
    return choose_protection(key_set, protection, changes.get("hsm_connection", held), replication)


def _check(key_set: KeySet) -> None:
    if len(key_set.description) > 1000:
        raise ValidationFailed(
            "A description has at most 1,000 characters.", field="description", cure="Shorten it."
        )
    if key_set.type not in KeySet.Type.values:
        raise ValidationFailed("This type of keys is not offered.", field="type", cure="Give AWS.")


def _set_schedules(key_set: KeySet, schedule: Mapping[str, Any], expiration: Mapping[str, Any]) -> None:
    parsed_schedule, parsed_expiration = parse_schedule(schedule), parse_expiration(expiration)
    key_set.rotation_schedule = parsed_schedule.as_json() if parsed_schedule else {"kind": "none"}
    key_set.expiration = parsed_expiration.as_json() if parsed_expiration else {"kind": "never"}
