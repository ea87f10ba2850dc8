"""What happens to a KMS key after it was made: AWS's side of the words in DESIGN.md, "What the words do"."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import ceil

from django.utils import timezone

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.flows.provisioning import OPERATION_TAG, ensure_alias, read_pointer, tags_of
from cloudkeys.flows.targets import account_of_key, require_pointer, save_gone, save_pointer
from cloudkeys.models import CloudKey
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, Later, StepContext
from cloudkeys.providers.base import ErrorCode, PointerKey, Provider, ProviderError
from cloudkeys.schedules import MAX_WINDOW_DAYS, MIN_WINDOW_DAYS
from cloudkeys.services.lifecycle import destroy_material, finish_enable
from vault.models import Vault

# How often AWS is asked whether a KMS key whose window is over has gone.
GONE_POLL_S = 3600.0
# Enabling a disabled vault brings everything back, and meanwhile nobody could cancel a deletion in it.
VAULT_IS_OFF = "the vault is disabled, and nothing in a disabled vault is destroyed"


def _open(ctx: StepContext) -> tuple[CloudKey, Provider, str]:
    key: CloudKey = ctx.target()
    return key, ctx.provider(account_of_key(key)), require_pointer(key)


def _look(ctx: StepContext, provider: Provider, key: CloudKey, kms_key_id: str) -> PointerKey | None:
    """Ask AWS and write down what it says; None when the KMS key is gone."""
    try:
        pointer = read_pointer(provider, key, kms_key_id)
    except OperationError as error:
        if error.code != "pointer_missing":
            raise
        with ctx.commit() as tx:
            save_gone(tx, ctx.target(lock=True))
        ctx.detail = "AWS knows this KMS key no more"
        return None
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        save_pointer(tx, row, _pointer_state(row), pointer)
    ctx.detail = pointer.state
    return pointer


def _pointer_state(row: CloudKey) -> CloudKey.PointerState:
    """A KMS key that is there again after GONE is linked; every other state stays."""
    state = CloudKey.PointerState(row.pointer_state)
    return CloudKey.PointerState.LINKED if state == CloudKey.PointerState.GONE else state


# --- disable, enable ----------------------------------------------------------------------------------------------


def disable_kms(ctx: StepContext) -> None:
    """KMS DisableKey. The data plane has refused since the change itself; AWS only follows."""
    key, provider, kms_key_id = _open(ctx)
    if key.state == CloudKey.State.ENABLED:
        ctx.detail = "the CloudKey is enabled again: nothing to do"
        return
    _tolerating_absence(lambda: provider.disable_key(key.region, kms_key_id))
    _look(ctx, provider, key, kms_key_id)


def _tolerating_absence(call: Callable[[], object]) -> None:
    """Call; what is gone or about to be deleted is refused by AWS anyway, and `_look` writes that down."""
    try:
        call()
    except ProviderError as error:
        if error.code not in (ErrorCode.NOT_FOUND, ErrorCode.WRONG_STATE):
            raise


def enable_kms(ctx: StepContext) -> None:
    """KMS EnableKey, before ours: nobody must meet a CloudKey that says ENABLED and a KMS key that refuses."""
    key, provider, kms_key_id = _open(ctx)
    _require_state(key, CloudKey.State.DISABLED, CloudKey.State.ENABLED)
    provider.enable_key(key.region, kms_key_id)
    if _look(ctx, provider, key, kms_key_id) is None:
        raise OperationError(
            "pointer_missing",
            "AWS knows this KMS key no more.",
            "Link the CloudKey anew, then enable it.",
            permanent=True,
        )


def undo_enable_kms(ctx: StepContext) -> None:
    """KMS DisableKey, unless the CloudKey has been enabled in another way meanwhile."""
    key, provider, kms_key_id = _open(ctx)
    if key.state != CloudKey.State.ENABLED:
        _tolerating_absence(lambda: provider.disable_key(key.region, kms_key_id))
        _look(ctx, provider, key, kms_key_id)


def enable_here(ctx: StepContext) -> None:
    """Our state ENABLED; a disable that came meanwhile has cancelled this and wins."""
    with ctx.commit(unless_cancelled=True) as tx:
        row = ctx.target(lock=True)
        _require_state(row, CloudKey.State.DISABLED, CloudKey.State.ENABLED)
        finish_enable(tx, row, str(ctx.input.get("reason", "")))


def _require_state(key: CloudKey, *states: CloudKey.State) -> None:
    if key.state not in states:
        raise OperationError(
            "state_changed",
            f"{key} is {key.get_state_display().lower()} by now.",
            "Look at the CloudKey, and ask again if you still want this.",
            permanent=True,
        )


# --- deletion -----------------------------------------------------------------------------------------------------


def schedule_kms(ctx: StepContext) -> None:
    """KMS ScheduleKeyDeletion; our window ends no earlier than AWS's."""
    key, provider, kms_key_id = _open(ctx)
    _require_state(key, CloudKey.State.PENDING_DELETION)
    days = int(ctx.input.get("window_days") or _days_left(key))
    _tolerating_absence(lambda: provider.schedule_key_deletion(key.region, kms_key_id, days))
    pointer = _look(ctx, provider, key, kms_key_id)
    if pointer is not None and pointer.state != "PendingDeletion":
        raise OperationError(
            "not_scheduled",
            f"AWS did not schedule the deletion: the KMS key is {pointer.state}.",
            "Look at the KMS key in AWS.",
            permanent=False,
        )
    if pointer is not None and pointer.deletion_at is not None:
        with ctx.commit():
            row = ctx.target(lock=True)
            if row.delete_after is not None and row.delete_after < pointer.deletion_at:
                row.delete_after = pointer.deletion_at
                row.save(update_fields=["delete_after", "updated_at"])
        ctx.detail = f"AWS deletes it on {pointer.deletion_at:%Y-%m-%d %H:%M} UTC"


def _days_left(key: CloudKey) -> int:
    if key.delete_after is None:
        return MAX_WINDOW_DAYS
    left = ceil((key.delete_after - timezone.now()) / timedelta(days=1))
    return max(MIN_WINDOW_DAYS, min(MAX_WINDOW_DAYS, left))


def cancel_kms(ctx: StepContext) -> None:
    """KMS CancelKeyDeletion: the KMS key is Disabled then, as ours."""
    key, provider, kms_key_id = _open(ctx)
    if key.state == CloudKey.State.PENDING_DELETION:
        ctx.detail = "the deletion is scheduled again: nothing to do"
        return
    try:
        provider.cancel_key_deletion(key.region, kms_key_id)
    except ProviderError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
    if _look(ctx, provider, key, kms_key_id) is None:
        raise OperationError(
            "pointer_missing",
            "AWS has deleted the KMS key already; what it encrypted needs that very KMS key.",
            "The CloudKey is kept, disabled. Link it to a new KMS key for new data.",
            permanent=True,
        )


def cancel_here(ctx: StepContext) -> None:
    """Ours is DISABLED since the change itself; make sure that the KMS key is no less, whatever AWS made of it."""
    key, provider, kms_key_id = _open(ctx)
    if key.state == CloudKey.State.DISABLED and key.cloud_state.get("state") == "Enabled":
        _tolerating_absence(lambda: provider.disable_key(key.region, kms_key_id))
        _look(ctx, provider, key, kms_key_id)


def confirm_gone(ctx: StepContext) -> Later | None:
    """The window is over: AWS has to say that the KMS key is gone before any material is destroyed."""
    key, provider, kms_key_id = _open(ctx)
    _require_state(key, CloudKey.State.PENDING_DELETION)
    if key.vault.state != Vault.State.ENABLED:
        return Later(GONE_POLL_S, VAULT_IS_OFF)
    if key.delete_after is not None and key.delete_after > timezone.now():
        left = (key.delete_after - timezone.now()).total_seconds()
        return Later(left, f"the window ends on {key.delete_after:%Y-%m-%d %H:%M} UTC")
    pointer = _look(ctx, provider, key, kms_key_id)
    if pointer is None:
        return None
    if pointer.state == "PendingDeletion":
        return Later(GONE_POLL_S, f"AWS deletes it on {pointer.deletion_at:%Y-%m-%d %H:%M} UTC")
    raise OperationError(
        "pointer_alive",
        f"The KMS key is still there, {pointer.state}: somebody cancelled its deletion in AWS.",
        "Cancel the deletion here too, or delete the KMS key in AWS and retry.",
        permanent=True,
    )


def destroy(ctx: StepContext) -> Later | None:
    """Erase every version, in one transaction with the audit event."""
    with ctx.commit(unless_cancelled=True) as tx:
        row = ctx.target(lock=True)
        if row.vault.state != Vault.State.ENABLED:
            return Later(GONE_POLL_S, VAULT_IS_OFF)
        if row.state != CloudKey.State.DESTROYED:
            destroy_material(tx, row, "The deletion window is over, and AWS has deleted the KMS key.")
    return None


# --- keeping in line ----------------------------------------------------------------------------------------------


def set_description(ctx: StepContext) -> None:
    """UpdateKeyDescription."""
    key, provider, kms_key_id = _open(ctx)
    provider.set_description(key.region, kms_key_id, key.description)


def set_policy(ctx: StepContext) -> None:
    """PutKeyPolicy with the administrators and users of the row."""
    key, provider, kms_key_id = _open(ctx)
    provider.set_policy(key.region, kms_key_id, key.administrators, key.users)


def set_tags(ctx: StepContext) -> None:
    """TagResource and UntagResource; the mark of the operation that made it stays."""
    key, provider, kms_key_id = _open(ctx)
    present = provider.key_tags(key.region, kms_key_id)
    kept = {OPERATION_TAG: present[OPERATION_TAG]} if OPERATION_TAG in present else {}
    provider.set_tags(key.region, kms_key_id, {**tags_of(key), **kept})


def set_alias(ctx: StepContext) -> None:
    """The alias equals the name: make the new one first, then remove the one that we made before."""
    key, provider, kms_key_id = _open(ctx)
    ensure_alias(provider, key, kms_key_id)
    former = str(key.cloud_state.get("managed_alias", ""))
    if former and former != key.alias:
        owner = provider.find_key(key.region, former)
        if owner is not None and owner.id == kms_key_id:
            provider.delete_alias(key.region, former)
    with ctx.commit():
        row = ctx.target(lock=True)
        row.cloud_state = {**row.cloud_state, "managed_alias": key.alias}
        row.save(update_fields=["cloud_state", "updated_at"])


def look(ctx: StepContext) -> None:
    """What AWS says, beside our state, which never changes by it."""
    key, provider, kms_key_id = _open(ctx)
    pointer = _look(ctx, provider, key, kms_key_id)
    ctx.operation.result = pointer.as_dict() if pointer is not None else {"state": "NotFound"}


UPDATE = Flow(
    run={
        "description": set_description,
        "policy": set_policy,
        "tags": set_tags,
        "alias": set_alias,
        "confirm": look,
    }
)
DISABLE = Flow(run={"disable_kms": disable_kms})
ENABLE = Flow(
    run={"enable_kms": enable_kms, "enable_here": enable_here, "wait_workers": wait_workers},
    undo={"enable_kms": undo_enable_kms},
    undo_on_failure=True,
)
SCHEDULE_DELETION = Flow(run={"schedule_kms": schedule_kms})
CANCEL_DELETION = Flow(run={"cancel_kms": cancel_kms, "cancel_here": cancel_here})
DESTROY = Flow(run={"confirm_gone": confirm_gone, "destroy_material": destroy})
REFRESH = Flow(run={"look": look})
