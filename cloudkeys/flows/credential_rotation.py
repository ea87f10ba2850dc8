"""A new access key for a CSP account: create, verify, switch, deactivate, delete; at every moment one that works.

AWS allows a user two access keys (IAM quotas), so there is room for exactly one rotation. The secret of a new key is
seen once, in AWS's answer: when a crash comes between that answer and our commit, the key is of no use to anybody and
is deleted, and another one is made. It is known as ours by two facts kept before the call, the keys that were there
and the time, and by one from AWS: nobody has ever used it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime

from cloudkeys.models import CspAccount
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, Later, StepContext, as_text
from cloudkeys.providers import open_provider
from cloudkeys.providers.base import AccessKey, ErrorCode, Provider, ProviderError
from cloudkeys.schedules import parse_schedule
from vault.actions import Action
from vault.changes import Change
from vault.keys import seal, unseal

GRACE = timedelta(hours=24)
MAX_ACCESS_KEYS = 2
# IAM is eventually consistent: a new access key may be unknown for some seconds, seldom longer.
VERIFY_POLL_S = 2.0
VERIFY_LIMIT_S = 600.0
# Clocks of AWS and ours may differ; a key older than that against our note of the time is not ours.
CLOCK_MARGIN = timedelta(minutes=5)
Rotation = CspAccount.Rotation


def _audit(tx: Change, account: CspAccount, what: str, **detail: Any) -> None:
    tx.audit(
        Action.CSP_CREDENTIAL_ROTATE,
        account,
        after={"access_key_id": account.access_key_id, "rotation_state": account.rotation_state},
        detail={"what": what, **detail},
    )


def create(ctx: StepContext) -> None:
    """CreateAccessKey; its secret is sealed in the same transaction that knows of the key."""
    account: CspAccount = ctx.target()
    if account.rotation_state == Rotation.CREATED:
        ctx.memo["old_access_key_id"] = account.access_key_id
        ctx.detail = account.pending_access_key_id
        return
    provider = open_provider(account, direct=True)
    _require_user(provider)
    keys = _make_room(ctx, account, provider)
    if "create_began_at" not in ctx.memo:
        ctx.remember(
            old_access_key_id=account.access_key_id,
            keys_before=[key.access_key_id for key in keys],
            create_began_at=as_text(timezone.now()),
        )
    try:
        made = provider.create_access_key()
    except ProviderError as error:
        if error.code != ErrorCode.LIMIT:
            raise
        # The answer of a first request was lost and the SDK sent it again: the next try finds that key and deletes it.
        raise ProviderError(
            error.code, error.cause, error.cure, permanent=False, provider_code=error.provider_code
        ) from None
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.pending_access_key_id = made.access_key_id
        seal(row, "pending_secret_access_key", made.secret_access_key)
        row.rotation_state = Rotation.CREATED
        row.save(
            update_fields=[
                "pending_access_key_id",
                "pending_secret_access_key",
                "rotation_state",
                "updated_at",
            ]
        )
        _audit(tx, row, "created", new_access_key_id=made.access_key_id)
    ctx.detail = made.access_key_id


def _require_user(provider: Provider) -> None:
    identity = provider.identity()
    if ":user/" not in identity.arn:
        raise OperationError(
            "not_a_user",
            f"This credential belongs to {identity.arn}, not to an IAM user, so its access key is not rotated here.",
            "Use the access key of an IAM user made for Keystead; never the account's root.",
            permanent=True,
        )


def _make_room(ctx: StepContext, account: CspAccount, provider: Provider) -> list[AccessKey]:
    """At most one access key is there afterwards. Raises when a second one is not ours to delete."""
    keys = provider.list_access_keys()
    for key in _leftovers(ctx, account, keys, provider):
        provider.delete_access_key(key.access_key_id)
        keys.remove(key)
    retiring = account.retiring_access_key_id
    if retiring and len(keys) >= MAX_ACCESS_KEYS:
        if account.retire_after is not None and account.retire_after > timezone.now():
            raise OperationError(
                "last_rotation_unfinished",
                f"The access key {retiring} of the last rotation is kept until {account.retire_after:%Y-%m-%d %H:%M} UTC.",
                "Rotate again after that, or delete it in IAM.",
                permanent=True,
            )
        provider.delete_access_key(retiring)
        keys = [key for key in keys if key.access_key_id != retiring]
    if len(keys) >= MAX_ACCESS_KEYS:
        foreign = [key.access_key_id for key in keys if key.access_key_id != account.access_key_id]
        raise OperationError(
            "two_access_keys",
            f"The IAM user has a second access key already ({', '.join(foreign)}), and AWS allows no third.",
            "Delete that access key in IAM if nobody uses it, then retry.",
            permanent=True,
        )
    return keys


def _leftovers(
    ctx: StepContext, account: CspAccount, keys: list[AccessKey], provider: Provider
) -> list[AccessKey]:
    """Access keys that an earlier try of this operation made and whose secret nobody has."""
    began = parse_datetime(str(ctx.memo.get("create_began_at", "")))
    if began is None:
        return []
    known = {*ctx.memo["keys_before"], account.access_key_id, account.pending_access_key_id}
    return [
        key
        for key in keys
        if key.access_key_id not in known
        and (key.created_at is None or key.created_at >= began - CLOCK_MARGIN)
        and not provider.access_key_was_used(key.access_key_id)
    ]


def undo_create(ctx: StepContext) -> None:
    """Delete the new access key, which nothing uses yet, also one whose secret was lost."""
    account: CspAccount = ctx.target()
    pending = account.pending_access_key_id
    if not pending and "create_began_at" not in ctx.memo:
        ctx.detail = "nothing was made"
        return
    provider = open_provider(account, direct=True)
    if pending:
        provider.delete_access_key(pending)
    for key in _leftovers(ctx, account, provider.list_access_keys(), provider):
        provider.delete_access_key(key.access_key_id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.pending_access_key_id = ""
        row.pending_secret_access_key = None
        row.rotation_state = Rotation.IDLE
        row.save(
            update_fields=[
                "pending_access_key_id",
                "pending_secret_access_key",
                "rotation_state",
                "updated_at",
            ]
        )
        ctx.memo.pop("create_began_at", None)
        _audit(tx, row, "undone", new_access_key_id=pending)
    ctx.detail = "the new access key is deleted again"


def verify(ctx: StepContext) -> Later | None:
    """The new access key signs in as the same user, and assumes the role where there is one."""
    account: CspAccount = ctx.target()
    new: dict[str, Any] = {
        "access_key_id": account.pending_access_key_id,
        "secret_access_key": unseal(account, "pending_secret_access_key"),
    }
    try:
        found = open_provider(account, direct=True, **new).identity()
        if account.auth_method == CspAccount.AuthMethod.ASSUME_ROLE:
            open_provider(account, **new).identity()
    except ProviderError as error:
        if error.code != ErrorCode.INVALID_CREDENTIAL or ctx.step_age_s > VERIFY_LIMIT_S:
            raise
        return Later(VERIFY_POLL_S, "AWS does not know the new access key everywhere yet")
    ctx.detail = found.arn
    return None


def switch(ctx: StepContext) -> None:
    """From this commit on the new access key is the account's; no way back."""
    with ctx.commit(unless_cancelled=True) as tx:
        row = ctx.target(lock=True)
        if row.rotation_state != Rotation.CREATED:
            return
        now = timezone.now()
        before = row.access_key_id
        secret = unseal(row, "pending_secret_access_key")
        row.retiring_access_key_id = before
        row.access_key_id = row.pending_access_key_id
        seal(row, "secret_access_key", secret)
        row.pending_access_key_id = ""
        row.pending_secret_access_key = None
        row.rotation_state = Rotation.SWITCHED
        row.credential_created_at = now
        schedule = parse_schedule(row.rotation_schedule)
        row.next_rotation_at = schedule.next_after(now) if schedule is not None else None
        row.revision += 1
        row.save()
        _audit(tx, row, "switched", former_access_key_id=before)
    ctx.detail = row.access_key_id


def deactivate(ctx: StepContext) -> None:
    """UpdateAccessKey Inactive, signed with the new key, which proves once more that it works."""
    account: CspAccount = ctx.target()
    if account.rotation_state != Rotation.SWITCHED:
        return
    provider = open_provider(account, direct=True)
    try:
        provider.set_access_key_active(account.retiring_access_key_id, False)
    except ProviderError as error:
        if error.code == ErrorCode.INVALID_CREDENTIAL:
            # Not everywhere yet; the old one stays active until it is.
            raise ProviderError(
                error.code, error.cause, error.cure, permanent=False, provider_code=error.provider_code
            ) from None
        if error.code != ErrorCode.NOT_FOUND:
            raise
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.rotation_state = Rotation.DEACTIVATED
        row.retire_after = timezone.now() + GRACE
        row.save(update_fields=["rotation_state", "retire_after", "updated_at"])
        _audit(tx, row, "deactivated", former_access_key_id=row.retiring_access_key_id)
    ctx.detail = account.retiring_access_key_id


def delete(ctx: StepContext) -> Later | None:
    """DeleteAccessKey of the old one, when nobody has missed it for the grace period."""
    account: CspAccount = ctx.target()
    if account.rotation_state != Rotation.DEACTIVATED:
        return None
    if account.retire_after is not None and account.retire_after > timezone.now():
        left = (account.retire_after - timezone.now()).total_seconds()
        return Later(
            left, f"inactive; AWS is asked to delete it on {account.retire_after:%Y-%m-%d %H:%M} UTC"
        )
    former = account.retiring_access_key_id
    open_provider(account, direct=True).delete_access_key(former)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.rotation_state = Rotation.IDLE
        row.retiring_access_key_id = ""
        row.retire_after = None
        row.save(update_fields=["rotation_state", "retiring_access_key_id", "retire_after", "updated_at"])
        _audit(tx, row, "deleted", former_access_key_id=former)
    ctx.operation.result = {"access_key_id": account.access_key_id}
    ctx.detail = former
    return None


ROTATE = Flow(
    run={
        "create": create,
        "verify": verify,
        "switch": switch,
        "deactivate": deactivate,
        "delete": delete,
    },
    undo={"create": undo_create},
    undo_on_failure=True,
)
