"""A CloudKey gets its KMS key: made by us, or taken over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.flows.targets import (
    account_in_arn,
    account_of_key,
    linked_store,
    require_own_account,
    save_pointer,
)
from cloudkeys.models import AwsStoreLink, CloudKey
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.requests import start_operation
from cloudkeys.operations.steps import Flow, Later, StepContext
from cloudkeys.providers.base import ErrorCode, KeySpec, PointerKey, Provider, ProviderError
from vault.changes import Change

EXTERNAL = "EXTERNAL_KEY_STORE"
KEY_TAG = "keystead:cloud-key"
OPERATION_TAG = "keystead:operation"
STORE_POLL_S = 3.0
# AWS: a key's deletion window is 7 to 30 days (ScheduleKeyDeletion); an undone creation takes the shortest.
UNDO_WINDOW_DAYS = 7


def tags_of(key: CloudKey) -> dict[str, str]:
    """The tags of a KMS key of ours: the person's, and whose pointer it is."""
    return {**key.tags, KEY_TAG: str(key.pk)}


# --- making one ---------------------------------------------------------------------------------------------------


def wait_store(ctx: StepContext) -> Later | None:
    """CreateKey needs the key store CONNECTED: wait while it is being made, and say so when it is not."""
    link = linked_store(ctx.target())
    if link.state == AwsStoreLink.State.CONNECTED:
        return None
    if link.state in (AwsStoreLink.State.PENDING, AwsStoreLink.State.CONNECTING):
        return Later(STORE_POLL_S, f"the key store {link} is {link.get_state_display().lower()}")
    raise OperationError(
        "store_not_connected",
        f"The key store {link} is {link.get_state_display().lower()}"
        + (f" ({link.connection_error_code})." if link.connection_error_code else "."),
        "Connect the key store; this goes on by itself then.",
        permanent=link.state in (AwsStoreLink.State.NOT_LINKED, AwsStoreLink.State.GONE),
    )


def create_key(ctx: StepContext) -> None:
    """CreateKey, or find the KMS key that an earlier try made: AWS allows one for each external key and store."""
    key = ctx.target()
    link = linked_store(key)
    provider = ctx.provider(account_of_key(key))
    pointer = _find_ours(ctx, provider, key)
    if pointer is None:
        try:
            pointer = provider.create_key(
                key.region,
                KeySpec(
                    key_store_id=link.custom_key_store_id,
                    external_key_id=key.external_key_id,
                    description=key.description,
                    administrators=key.administrators,
                    users=key.users,
                    tags={**tags_of(key), OPERATION_TAG: str(ctx.operation.pk)},
                ),
            )
        except ProviderError as error:
            if error.code != ErrorCode.EXTERNAL_KEY_IN_USE:
                raise
            pointer = _find_by_external_id(provider, key, link, error)
    if pointer.state == "PendingDeletion":
        # Left by a creation that was undone: the external key cannot have another KMS key before that one is gone.
        provider.cancel_key_deletion(key.region, pointer.id)
        provider.enable_key(key.region, pointer.id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        save_pointer(tx, row, CloudKey.PointerState.PENDING, pointer, detail="KMS key made")
        ctx.memo["kms_key_id"] = pointer.id
        ctx.memo["revision"] = key.revision
    ctx.detail = pointer.arn


def _find_ours(ctx: StepContext, provider: Provider, key: CloudKey) -> PointerKey | None:
    known = str(ctx.memo.get("kms_key_id") or key.kms_key_id)
    pointer = provider.find_key(key.region, known) if known else None
    if pointer is None or pointer.external_key_id != key.external_key_id:
        return None
    return pointer


def _find_by_external_id(
    provider: Provider, key: CloudKey, link: AwsStoreLink, error: ProviderError
) -> PointerKey:
    """The KMS key that has our external key, when we made it. Raises otherwise: nothing foreign is taken over."""
    found = provider.find_key_by_external_id(key.region, link.custom_key_store_id, key.external_key_id)
    if found is None:
        # The one that AWS speaks of is not shown to us; it may also be younger than AWS's list of keys.
        raise ProviderError(
            error.code, error.cause, error.cure, permanent=False, provider_code=error.provider_code
        )
    if provider.key_tags(key.region, found.id).get(KEY_TAG) != str(key.pk):
        raise OperationError(
            "external_key_in_use",
            f"KMS key {found.id} in {key.region} refers to this CloudKey already, and Keystead did not make it.",
            f"Link the CloudKey to {found.id}, or delete that KMS key.",
            permanent=True,
        )
    return found


def undo_create_key(ctx: StepContext) -> None:
    """ScheduleKeyDeletion of the KMS key that we made; it has held no data, since nobody was told of it."""
    key = ctx.target()
    link = key.link
    provider = ctx.provider(account_of_key(key))
    pointer = _find_ours(ctx, provider, key)
    if pointer is None and link is not None:
        pointer = provider.find_key_by_external_id(key.region, link.custom_key_store_id, key.external_key_id)
        if pointer is not None and provider.key_tags(key.region, pointer.id).get(KEY_TAG) != str(key.pk):
            pointer = None
    if pointer is None:
        ctx.detail = "nothing was made"
        return
    if pointer.state != "PendingDeletion":
        provider.schedule_key_deletion(key.region, pointer.id, UNDO_WINDOW_DAYS)
    gone_soon = provider.find_key(key.region, pointer.id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        save_pointer(
            tx, row, CloudKey.PointerState.PENDING, gone_soon, managed_alias="", detail="KMS key undone"
        )
        ctx.memo["kms_key_id"] = pointer.id
    ctx.detail = f"{pointer.id} is deleted by AWS in {UNDO_WINDOW_DAYS} days"


def create_alias(ctx: StepContext) -> None:
    """The alias equals the name. Raises when another key of the account and region has it."""
    key = ctx.target()
    ensure_alias(ctx.provider(account_of_key(key)), key, str(ctx.memo["kms_key_id"]))
    with ctx.commit():
        row = ctx.target(lock=True)
        row.cloud_state = {**row.cloud_state, "managed_alias": key.alias}
        row.save(update_fields=["cloud_state", "updated_at"])
    ctx.detail = key.alias


def ensure_alias(provider: Provider, key: CloudKey, kms_key_id: str) -> None:
    """Give the KMS key its alias if it has not got it. Raises a permanent OperationError when it is another key's."""
    owner = provider.find_key(key.region, key.alias)
    if owner is None:
        try:
            provider.create_alias(key.region, key.alias, kms_key_id)
            return
        except ProviderError as error:
            if error.code != ErrorCode.ALREADY_EXISTS:
                raise
            # An earlier try made it and its answer was lost, or somebody was faster.
            owner = provider.find_key(key.region, key.alias)
    if owner is None or owner.id != kms_key_id:
        raise OperationError(
            "alias_taken",
            f"{key.alias} in {key.region} already belongs to another KMS key ({owner.id if owner else 'not shown'}).",
            "Rename the CloudKey, or remove that alias in AWS, then retry.",
            permanent=True,
        )


def undo_create_alias(ctx: StepContext) -> None:
    """Remove the alias, if it is that of the KMS key that we made."""
    key = ctx.target()
    provider = ctx.provider(account_of_key(key))
    alias = str(key.cloud_state.get("managed_alias") or key.alias)
    owner = provider.find_key(key.region, alias)
    if owner is not None and owner.id == ctx.memo.get("kms_key_id"):
        provider.delete_alias(key.region, alias)
        ctx.detail = f"{alias} removed"


def confirm(ctx: StepContext) -> None:
    """DescribeKey says that all is as asked; then the CloudKey is LINKED.

    What changed here meanwhile (a new name, a disable) could not reach AWS yet: its own Operation follows.
    """
    key = ctx.target()
    pointer = read_pointer(ctx.provider(account_of_key(key)), key, str(ctx.memo["kms_key_id"]))
    _require_ours(pointer, key, linked_store(key))
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        save_pointer(tx, row, CloudKey.PointerState.LINKED, pointer, detail="linked")
        _follow_up(ctx, row, pointer, changed=row.revision != ctx.memo.get("revision"))
    ctx.operation.result = {"kms_key_id": pointer.id, "kms_key_arn": pointer.arn, "alias": key.alias}
    ctx.detail = f"{pointer.state}, {pointer.arn}"


def read_pointer(provider: Provider, key: CloudKey, kms_key_id: str) -> PointerKey:
    """The KMS key with its aliases. Raises a permanent OperationError when AWS does not know it."""
    pointer = provider.find_key(key.region, kms_key_id)
    if pointer is None:
        if kms_key_id == key.kms_key_id:
            require_own_account(provider, account_in_arn(key.kms_key_arn), f"KMS key {key.kms_key_id}")
        raise OperationError(
            "pointer_missing",
            f"AWS knows no KMS key {kms_key_id} in {key.region}.",
            "Check the id and the region; if it was deleted in AWS, link the CloudKey anew.",
            permanent=True,
        )
    return replace(pointer, aliases=tuple(provider.key_aliases(key.region, pointer.id)))


def _require_ours(pointer: PointerKey, key: CloudKey, link: AwsStoreLink) -> None:
    """Raise a permanent OperationError unless the KMS key refers to this CloudKey through this key store."""
    for what, found, wanted in (
        ("origin", pointer.origin, EXTERNAL),
        ("custom key store", pointer.key_store_id, link.custom_key_store_id),
        ("external key id", pointer.external_key_id, key.external_key_id),
    ):
        if found != wanted:
            raise OperationError(
                "not_this_key",
                f"KMS key {pointer.id} has {what} {found or 'none'}, and this CloudKey needs {wanted}.",
                "Give the id of the KMS key that was made for this CloudKey, or let Keystead make one.",
                permanent=True,
            )


def _follow_up(ctx: StepContext, row: CloudKey, pointer: PointerKey, *, changed: bool) -> None:
    if row.state == CloudKey.State.PENDING_DELETION:
        start_operation(ctx.actor, "cloud_key.schedule_deletion", row)
    elif row.state == CloudKey.State.DISABLED and pointer.state == "Enabled":
        start_operation(ctx.actor, "cloud_key.disable_pointer", row)
    if changed and row.state != CloudKey.State.PENDING_DELETION:
        start_operation(ctx.actor, "cloud_key.update_pointer", row)


def provisioning_failed(ctx: StepContext, tx: Change, error: dict[str, Any] | None) -> None:
    """The pointer has FAILED; the KMS key that was made, if any, stays named on the row for a retry."""
    row = ctx.target(lock=True)
    save_pointer(tx, row, CloudKey.PointerState.FAILED, None, detail=(error or {}).get("cause", ""))


def provisioning_cancelled(ctx: StepContext, tx: Change, error: dict[str, Any] | None) -> None:
    """NOT_LINKED again. When the CloudKey itself is to be deleted, AWS has to say first that what we made is gone."""
    row = ctx.target(lock=True)
    made = bool(row.kms_key_id) and row.state == CloudKey.State.PENDING_DELETION
    state = CloudKey.PointerState.LINKED if made else CloudKey.PointerState.NOT_LINKED
    save_pointer(tx, row, state, None, detail="cancelled")


PROVISION = Flow(
    run={
        "wait_workers": wait_workers,
        "wait_store": wait_store,
        "create_key": create_key,
        "create_alias": create_alias,
        "confirm": confirm,
    },
    undo={"create_key": undo_create_key, "create_alias": undo_create_alias},
    on_failed=provisioning_failed,
    on_cancelled=provisioning_cancelled,
)


# --- taking one over ----------------------------------------------------------------------------------------------


def check_key(ctx: StepContext) -> None:
    """DescribeKey confirms origin, key store and external key id; nothing is changed."""
    key = ctx.target()
    pointer = read_pointer(ctx.provider(account_of_key(key)), key, str(ctx.input["kms_key_id"]))
    _require_ours(pointer, key, linked_store(key))
    if pointer.state == "PendingDeletion":
        raise OperationError(
            "pending_deletion",
            f"AWS is about to delete KMS key {pointer.id}.",
            "Cancel its deletion in AWS, then retry.",
            permanent=True,
        )
    ctx.remember(kms_key_id=pointer.id)
    ctx.detail = pointer.arn


def adopt(ctx: StepContext) -> None:
    """The CloudKey is LINKED to it; its alias is made when it is free and missing, and nothing else is touched."""
    key = ctx.target()
    provider = ctx.provider(account_of_key(key))
    kms_key_id = str(ctx.memo["kms_key_id"])
    managed = ""
    try:
        ensure_alias(provider, key, kms_key_id)
        managed = key.alias
    except OperationError as taken:
        # Drift to be seen on the key's page, no reason against the link.
        ctx.detail = taken.cause
    pointer = read_pointer(provider, key, kms_key_id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        save_pointer(tx, row, CloudKey.PointerState.LINKED, pointer, managed_alias=managed, detail="adopted")
        _follow_up(ctx, row, pointer, changed=False)
    ctx.operation.result = {"kms_key_id": pointer.id, "kms_key_arn": pointer.arn}


def adoption_failed(ctx: StepContext, tx: Change, error: dict[str, Any] | None) -> None:
    """Nothing was made: NOT_LINKED as before."""
    row = ctx.target(lock=True)
    save_pointer(tx, row, CloudKey.PointerState.NOT_LINKED, None, detail=(error or {}).get("cause", ""))


LINK = Flow(
    run={"check_key": check_key, "adopt": adopt}, on_failed=adoption_failed, on_cancelled=adoption_failed
)
