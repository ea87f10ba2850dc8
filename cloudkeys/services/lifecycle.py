"""Disable, enable, block, delete, expire. What each word means: DESIGN.md, "What the words do"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from cloudkeys.models import CloudKey, Operation
from cloudkeys.operations import cancel_superseded, start_operation
from cloudkeys.schedules import MAX_WINDOW_DAYS, MIN_WINDOW_DAYS
from cloudkeys.services.cloud_keys import require_user_key
from cloudkeys.services.due_dates import effective_expiration
from cloudkeys.services.rows import save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.approvals import check_approval
from vault.changes import Change, change, snapshot
from vault.errors import Conflict, NeedsApproval, ValidationFailed, check_revision
from vault.generations import current_generation
from vault.models import GenerationChange
from vault.permissions import Permission
from vault.services.confirmations import confirm_switches

_STATES = ("state", "blocked", "pointer_state", "delete_after", "permitted_uses")
_LINKED = (CloudKey.PointerState.LINKED,)
FAILED_DESTROY_PAUSE = timedelta(hours=24)


@dataclass(frozen=True)
class LifecycleChange:
    """The key after an act, AWS's part of it, and the generation that the data plane has to confirm."""

    key: CloudKey
    operation: Operation | None
    generation: int


def disable_cloud_key(
    actor: Actor, key_id: UUID, *, reason: str, expected_revision: int | None = None
) -> LifecycleChange:
    """Refuse every new use, everywhere, at once; then, when linked, an Operation calls KMS DisableKey.

    AWS out of reach changes nothing of the first. A key that is disabled already stays so, without an error.
    """
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_DISABLE, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        # An enable that is still on its way must not undo this.
        cancel_superseded(key, "cloud_key.enable")
        if key.state == CloudKey.State.PENDING_DELETION:
            raise Conflict(
                "This key is refused already: its deletion is scheduled.",
                cure="Cancel the deletion to keep it, disabled.",
            )
        if key.state == CloudKey.State.DISABLED:
            return LifecycleChange(key, None, current_generation())
        _set_state(tx, key, CloudKey.State.DISABLED, Action.CLOUD_KEY_DISABLE, reason)
        operation = (
            start_operation(actor, "cloud_key.disable_pointer", key) if key.pointer_state in _LINKED else None
        )
    return LifecycleChange(key, operation, tx.generation or 0)


def enable_cloud_key(
    actor: Actor, key_id: UUID, *, reason: str = "", expected_revision: int | None = None
) -> LifecycleChange:
    """Serve a disabled key again: AWS's side first when linked, then ours (the reverse of disable).

    May raise NeedsApproval.
    """
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_ENABLE, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        if key.state == CloudKey.State.ENABLED:
            return LifecycleChange(key, None, current_generation())
        if key.state == CloudKey.State.PENDING_DELETION:
            raise Conflict("The deletion of this key is scheduled.", cure="Cancel the deletion first.")
        check_approval(actor, Action.CLOUD_KEY_ENABLE, key)
        if key.pointer_state in _LINKED:
            cancel_superseded(key, "cloud_key.disable_pointer")
            operation = start_operation(actor, "cloud_key.enable", key, input={"reason": reason[:1000]})
            tx.audit(
                Action.CLOUD_KEY_ENABLE,
                key,
                detail={"asked": True, "operation": str(operation.pk)},
                reason=reason,
            )
            return LifecycleChange(key, operation, 0)
        finish_enable(tx, key, reason)
    return LifecycleChange(key, None, tx.generation or 0)


def finish_enable(tx: Change, key: CloudKey, reason: str) -> None:
    """Our side of enable, on a locked row; does nothing unless the key is DISABLED."""
    if key.state == CloudKey.State.DISABLED:
        _set_state(tx, key, CloudKey.State.ENABLED, Action.CLOUD_KEY_ENABLE, reason)


def block_cloud_key(actor: Actor, key_id: UUID, *, reason: str) -> LifecycleChange:
    """Refuse a key in the data plane only; AWS is not told, and only its own permission undoes it."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_BLOCK, lock=True)
        require_user_key(key)
        if key.blocked:
            return LifecycleChange(key, None, current_generation())
        _set_blocked(tx, key, True, Action.CLOUD_KEY_BLOCK, reason)
    return LifecycleChange(key, None, tx.generation or 0)


def unblock_cloud_key(actor: Actor, key_id: UUID, *, reason: str = "") -> LifecycleChange:
    """Undo a block. May raise NeedsApproval."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UNBLOCK, lock=True)
        require_user_key(key)
        if not key.blocked:
            return LifecycleChange(key, None, current_generation())
        check_approval(actor, Action.CLOUD_KEY_UNBLOCK, key)
        _set_blocked(tx, key, False, Action.CLOUD_KEY_UNBLOCK, reason)
    return LifecycleChange(key, None, tx.generation or 0)


def retire_cloud_key(
    actor: Actor, key_id: UUID, *, reason: str = "", expected_revision: int | None = None
) -> LifecycleChange:
    """Make a key decrypt-only for good: old data stays readable, nothing new is encrypted, it rotates no more."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        if key.retired_at is not None:
            raise Conflict("This key is retired to decrypt-only already.")
        before = snapshot(key, *_STATES)
        key.permitted_uses = [use for use in key.permitted_uses if use != "ENCRYPT"]
        key.retired_at = timezone.now()
        key.next_rotation_at = None
        save_revision(key, "permitted_uses", "retired_at", "next_rotation_at")
        tx.audit(Action.CLOUD_KEY_RETIRE, key, before=before, after=snapshot(key, *_STATES), reason=reason)
        tx.touch(GenerationChange.Kind.KEY, key.pk)
    return LifecycleChange(key, None, tx.generation or 0)


def schedule_deletion(
    actor: Actor,
    key_id: UUID,
    *,
    confirm_name: str,
    window_days: int = MAX_WINDOW_DAYS,
    reason: str = "",
    expected_revision: int | None = None,
) -> LifecycleChange:
    """Refuse every use now, destroy the material after the window and after AWS says that the KMS key is gone."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_DESTROY, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        _check_window(window_days)
        require_typed_name(confirm_name, key.name)
        if key.state == CloudKey.State.PENDING_DELETION:
            raise Conflict(
                "The deletion of this key is scheduled already.",
                cure="Cancel it first to choose another window.",
            )
        check_approval(actor, Action.CLOUD_KEY_SCHEDULE_DELETION, key)
        operation = _begin_deletion(actor, tx, key, window_days, reason)
    return LifecycleChange(key, operation, tx.generation or 0)


def cancel_deletion(actor: Actor, key_id: UUID, *, reason: str = "") -> LifecycleChange:
    """Keep the key after all: it stays DISABLED until somebody enables it."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_DESTROY, lock=True)
        require_user_key(key)
        if key.state != CloudKey.State.PENDING_DELETION:
            raise Conflict("No deletion of this key is scheduled.")
        cancel_superseded(key, "cloud_key.schedule_deletion", "cloud_key.destroy")
        key.delete_after = None
        _set_state(tx, key, CloudKey.State.DISABLED, Action.CLOUD_KEY_CANCEL_DELETION, reason, "delete_after")
        operation = (
            start_operation(actor, "cloud_key.cancel_deletion", key) if key.pointer_state in _LINKED else None
        )
    return LifecycleChange(key, operation, tx.generation or 0)


def destroy_unlinked_key(
    actor: Actor, key_id: UUID, *, confirm_name: str, pointer_is_gone: bool, reason: str = ""
) -> LifecycleChange:
    """End of the window for a key that Keystead does not drive in AWS: the admin says that no KMS key refers to it."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_DESTROY, lock=True)
        require_user_key(key)
        require_typed_name(confirm_name, key.name)
        if key.pointer_state in (CloudKey.PointerState.LINKED, CloudKey.PointerState.PENDING):
            raise Conflict(
                "AWS is asked about this key's KMS key itself.",
                cure="Wait: it is destroyed when AWS says it is gone.",
            )
        if (
            key.state != CloudKey.State.PENDING_DELETION
            or key.delete_after is None
            or key.delete_after > timezone.now()
        ):
            raise Conflict(
                "A key is destroyed only after its deletion window.",
                cure="Schedule the deletion, then come back after its end.",
            )
        if not pointer_is_gone:
            raise ValidationFailed(
                "Say that no KMS key in AWS refers to this key any more.",
                field="pointer_is_gone",
                cure="Delete the KMS key in AWS, wait for the end of its own window, then confirm.",
            )
        check_approval(actor, Action.CLOUD_KEY_DESTROY, key)
        destroy_material(tx, key, reason)
    return LifecycleChange(key, None, tx.generation or 0)


def destroy_material(tx: Change, key: CloudKey, reason: str) -> None:
    """Erase every version of a key whose window is over, on a locked row. The row stays: its id is never reused."""
    if (
        key.state != CloudKey.State.PENDING_DELETION
        or key.delete_after is None
        or key.delete_after > timezone.now()
    ):
        raise Conflict("Only a key whose deletion window is over is destroyed.")
    now = timezone.now()
    key.versions.update(material=None, destroyed_at=now)
    key.destroyed_at = now
    key.delete_after = key.next_rotation_at = key.expires_at = None
    if key.pointer_state != CloudKey.PointerState.NOT_LINKED:
        key.pointer_state = CloudKey.PointerState.GONE
    _set_state(
        tx, key, CloudKey.State.DESTROYED, Action.CLOUD_KEY_DESTROY, reason,
        "destroyed_at", "delete_after", "next_rotation_at", "expires_at", "pointer_state",
    )  # fmt: skip


def expire_due_keys(actor: Actor, limit: int = 100) -> int:
    """Act on keys whose time has come: disable or schedule deletion. Returns how many; run it again for more.

    Then waits for the data plane, once, and records for each key how far it followed.
    """
    count = 0
    closed: dict[Action, list[CloudKey]] = {}
    # In a disabled vault nothing is served and nobody could cancel a deletion: its keys expire once it is enabled.
    due = CloudKey.objects.filter(
        expires_at__lte=timezone.now(), expired_at=None, kind=CloudKey.Kind.USER, vault__state="ENABLED"
    )
    for key_id in list(
        due.exclude(state=CloudKey.State.DESTROYED)
        .order_by("expires_at")
        .values_list("pk", flat=True)[:limit]
    ):
        with change(actor) as tx:
            key = CloudKey.objects.select_for_update().get(pk=key_id)
            if key.expired_at is not None or key.expires_at is None or key.expires_at > timezone.now():
                continue
            expiration = effective_expiration(key)
            key.expired_at = timezone.now()
            key.save(update_fields=["expired_at", "updated_at"])
            then = expiration.then if expiration is not None else "disable"
            waits = then == "delete" and _deletion_needs_approval(actor, key)
            tx.audit(
                Action.CLOUD_KEY_EXPIRE,
                key,
                detail={"then": then, **({"deletion": "waits for approval"} if waits else {})},
            )
            reason = "Its expiration date has come."
            cancel_superseded(key, "cloud_key.enable")
            if (
                expiration is not None
                and expiration.then == "delete"
                and not waits
                and key.state != CloudKey.State.PENDING_DELETION
            ):
                _begin_deletion(actor, tx, key, expiration.window_days, reason)
                closed.setdefault(Action.CLOUD_KEY_SCHEDULE_DELETION, []).append(key)
            elif key.state == CloudKey.State.ENABLED:
                _set_state(tx, key, CloudKey.State.DISABLED, Action.CLOUD_KEY_DISABLE, reason)
                closed.setdefault(Action.CLOUD_KEY_DISABLE, []).append(key)
                if key.pointer_state in _LINKED:
                    start_operation(actor, "cloud_key.disable_pointer", key)
            count += 1
    for action, keys in closed.items():
        confirm_switches(actor, action, keys)
    return count


def _deletion_needs_approval(actor: Actor, key: CloudKey) -> bool:
    """Whether a clock may not schedule this deletion alone: the key is then disabled, and a person has to ask for it."""
    try:
        check_approval(actor, Action.CLOUD_KEY_SCHEDULE_DELETION, key)
    except NeedsApproval:
        return True
    return False


def finish_due_deletions(actor: Actor, limit: int = 100) -> int:
    """Begin the destruction of linked keys whose window is over. Returns how many were begun."""
    count = 0
    due = CloudKey.objects.filter(
        state=CloudKey.State.PENDING_DELETION,
        delete_after__lte=timezone.now(),
        pointer_state__in=["LINKED", "GONE"],
        vault__state="ENABLED",
    )
    # One that failed (the KMS key lives) waits for a person; only after so long is AWS asked again by itself.
    failed_of_late = Q(state=Operation.State.FAILED, finished_at__gt=timezone.now() - FAILED_DESTROY_PAUSE)
    busy = Operation.objects.filter(
        Q(state__in=Operation.UNFINISHED) | failed_of_late, kind="cloud_key.destroy"
    ).values("target_id")
    for key_id in list(
        due.exclude(pk__in=busy).order_by("delete_after").values_list("pk", flat=True)[:limit]
    ):
        try:
            with change(actor):
                key = CloudKey.objects.select_for_update().get(pk=key_id)
                if key.state == CloudKey.State.PENDING_DELETION:
                    start_operation(actor, "cloud_key.destroy", key)
                    count += 1
        except Conflict:
            # Other work on this key is under way; it must not hold up the keys behind it.
            continue
    return count


def require_typed_name(given: str, name: str) -> None:
    """What cannot be undone asks for the name in full. Raises ValidationFailed."""
    if given != name:
        raise ValidationFailed(
            "The name does not match.",
            field="confirm_name",
            cure=f"Type {name} to confirm; this cannot be undone.",
        )


def _begin_deletion(
    actor: Actor, tx: Change, key: CloudKey, window_days: int, reason: str
) -> Operation | None:
    if not key.deletable:
        raise Conflict("This key cannot be deleted.")
    cancel_superseded(
        key, "cloud_key.enable", "cloud_key.disable_pointer", "cloud_key.provision", "cloud_key.link"
    )
    key.delete_after = timezone.now() + timedelta(days=window_days)
    _set_state(
        tx, key, CloudKey.State.PENDING_DELETION, Action.CLOUD_KEY_SCHEDULE_DELETION, reason, "delete_after"
    )
    if key.pointer_state not in _LINKED:
        return None
    return start_operation(actor, "cloud_key.schedule_deletion", key, input={"window_days": window_days})


def _check_window(days: int) -> None:
    if not isinstance(days, int) or isinstance(days, bool) or not MIN_WINDOW_DAYS <= days <= MAX_WINDOW_DAYS:
        raise ValidationFailed(
            f"AWS takes a window of {MIN_WINDOW_DAYS} to {MAX_WINDOW_DAYS} days.",
            field="window_days",
            cure="Give 7 to 30.",
        )


def _set_state(
    tx: Change, key: CloudKey, state: CloudKey.State, action: Action, reason: str, *more: str
) -> None:
    before = {"state": CloudKey.objects.values_list("state", flat=True).get(pk=key.pk)}
    key.state = state
    key.state_reason = reason[:1000]
    save_revision(key, "state", "state_reason", *more)
    tx.audit(action, key, before=before, after=snapshot(key, *_STATES), reason=reason)
    tx.touch(GenerationChange.Kind.KEY, key.pk)


def _set_blocked(tx: Change, key: CloudKey, blocked: bool, action: Action, reason: str) -> None:
    before = snapshot(key, *_STATES)
    key.blocked = blocked
    save_revision(key, "blocked")
    tx.audit(action, key, before=before, after=snapshot(key, *_STATES), reason=reason)
    tx.touch(GenerationChange.Kind.KEY, key.pk)
