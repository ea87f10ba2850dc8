"""Many CloudKeys at once: one after the other, each in a transaction that also counts it, so none is done twice.

What is done is done with the rights that the person who asked has now, not with ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, Later, StepContext
from cloudkeys.services import cloud_keys, lifecycle, versions
from vault.actions import Action
from vault.actors import Actor
from vault.errors import DomainError, ValidationFailed
from vault.models import ApiToken
from vault.services.confirmations import confirm_switches

SLICE_S = 10.0
Act = Callable[[Actor, UUID, dict[str, Any]], Any]


def requester(operation: Operation) -> Actor:
    """Who asked, with the rights and the token's ceiling of now. Raises OperationError when they are gone."""
    who = operation.memo.get("actor", {})
    if who.get("type") == "system":
        return Actor.system("worker", operation.requested_by_name, operation.request_id)
    user = operation.requested_by
    token = None
    if who.get("token_id"):
        token = ApiToken.objects.filter(pk=who["token_id"], revoked_at=None).first()
        if token is None or (token.expires_at is not None and token.expires_at <= timezone.now()):
            user = None
    if user is None or not user.is_active:
        raise OperationError(
            "requester_gone",
            f"{operation.requested_by_name} may not act any more (user or token is gone or expired).",
            "Somebody who may has to ask anew.",
            permanent=True,
        )
    return Actor(user=user, token=token, via="worker", request_id=operation.request_id)


ACTIONS: dict[str, Act] = {
    "disable": lambda actor, pk, p: lifecycle.disable_cloud_key(actor, pk, reason=p.get("reason", "")),
    "enable": lambda actor, pk, p: lifecycle.enable_cloud_key(actor, pk, reason=p.get("reason", "")),
    "block": lambda actor, pk, p: lifecycle.block_cloud_key(actor, pk, reason=p.get("reason", "")),
    "unblock": lambda actor, pk, p: lifecycle.unblock_cloud_key(actor, pk, reason=p.get("reason", "")),
    "rotate": lambda actor, pk, p: versions.rotate_cloud_key(actor, pk),
    "retire": lambda actor, pk, p: lifecycle.retire_cloud_key(actor, pk, reason=p.get("reason", "")),
    "refresh": lambda actor, pk, p: cloud_keys.refresh_cloud_key(actor, pk),
    "update": lambda actor, pk, p: cloud_keys.update_cloud_key(actor, pk, p.get("changes", {})),
    "tag": lambda actor, pk, p: cloud_keys.tag_cloud_key(actor, pk, **p.get("tags", {})),
    "change_schedule": lambda actor, pk, p: cloud_keys.update_cloud_key(
        actor, pk, {"rotation_schedule": p.get("rotation_schedule")}
    ),
    "schedule_deletion": lambda actor, pk, p: lifecycle.schedule_deletion(
        actor,
        pk,
        confirm_name=p.get("confirm", {}).get(str(pk), ""),
        window_days=p.get("window_days", 30),
        reason=p.get("reason", ""),
    ),
    "cancel_deletion": lambda actor, pk, p: lifecycle.cancel_deletion(actor, pk, reason=p.get("reason", "")),
}

CLOSING_ACTS = {
    "disable": Action.CLOUD_KEY_DISABLE,
    "block": Action.CLOUD_KEY_BLOCK,
    "schedule_deletion": Action.CLOUD_KEY_SCHEDULE_DELETION,
}
"""Those that take access away: how far the data plane followed is recorded for each key."""
UNCONFIRMED = "unconfirmed"


# What a row may say: the arguments of create_cloud_key, and the key set.
COLUMNS = frozenset(
    {
        "key_set",
        "name",
        "region",
        "description",
        "external_key_id",
        "permitted_uses",
        "administrators",
        "users",
        "tags",
        "rotation_schedule",
        "expiration",
    }
)


def _id(value: Any) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise ValidationFailed(
            "This is no id.", field="id", cure="Give the id as the API shows it."
        ) from None


def act_on_items(ctx: StepContext) -> Later | None:
    """Input: action (a key of ACTIONS), ids, params. Result: done, failed [{id, code, message, cure}]."""
    act = ACTIONS.get(str(ctx.input.get("action")))
    if act is None:
        raise OperationError(
            "unknown_action", "This action is unknown.", f"Give one of {', '.join(ACTIONS)}.", permanent=True
        )
    params = dict(ctx.input.get("params") or {})
    closing = CLOSING_ACTS.get(str(ctx.input.get("action")))

    def one(actor: Actor, item: Any) -> dict[str, Any]:
        act(actor, _id(item), params)
        if closing is not None:
            ctx.memo.setdefault(UNCONFIRMED, []).append(str(item))
        return {"id": str(item)}

    later = _each(ctx, list(ctx.input.get("ids", [])), one, lambda item: {"id": str(item)})
    if closing is not None and ctx.memo.get(UNCONFIRMED):
        _confirm(ctx, closing)
    return later


def _confirm(ctx: StepContext, action: Action) -> None:
    """Wait once for what was closed in this turn, and record for each key how far the data plane followed.

    A worker that dies in between says it twice, never not at all: the next one goes by the memo.
    """
    try:
        actor = requester(ctx.operation)
    except OperationError:
        actor = ctx.actor  # who asked has gone meanwhile; what was closed is closed
    told = confirm_switches(
        actor, action, CloudKey.objects.filter(pk__in=ctx.memo[UNCONFIRMED]).order_by("name")
    )
    del ctx.memo[UNCONFIRMED]
    with ctx.commit():
        pass
    if told is not None:
        ctx.detail = (
            f"{ctx.detail}; confirmed by {told.confirmed} of {told.counted} XKS workers".removeprefix("; ")
        )


def create_rows(ctx: StepContext) -> Later | None:
    """Input: rows, each with the arguments of create_cloud_key, and `key_set` (id) unless the target is the key set."""
    target = ctx.target()

    def one(actor: Actor, item: Any) -> dict[str, Any]:
        values = dict(item)
        unknown = sorted(set(values) - COLUMNS)
        if unknown:
            raise ValidationFailed(
                f"There is no column {unknown[0]}.",
                field=unknown[0],
                cure=f"Known are {', '.join(sorted(COLUMNS))}.",
            )
        key_set_id = values.pop("key_set", None) or (target.pk if isinstance(target, KeySet) else None)
        if key_set_id is None:
            raise ValidationFailed(
                "The key set is missing.", field="key_set", cure="Give its id in each row."
            )
        missing = [name for name in ("name", "region") if not values.get(name)]
        if missing:
            raise ValidationFailed("This is missing.", field=missing[0], cure="Give it in each row.")
        made = cloud_keys.create_cloud_key(actor, _id(key_set_id), **values)
        return {"id": str(made.key.pk), "name": made.key.name}

    return _each(
        ctx, list(ctx.input.get("rows", [])), one, lambda item: {"name": str(dict(item).get("name", ""))}
    )


def _each(
    ctx: StepContext,
    items: list[Any],
    one: Callable[[Actor, Any], dict[str, Any]],
    describe: Callable[[Any], dict[str, Any]],
) -> Later | None:
    began = time.monotonic()
    result = ctx.operation.result
    result.setdefault("done", [])
    result.setdefault("failed", [])
    count = len(result["done"]) + len(result["failed"])
    columns = {"result": result}
    while count < len(items):
        if time.monotonic() - began > SLICE_S:
            return Later(0.0, f"{count} of {len(items)}")
        item = items[count]
        actor = requester(ctx.operation)
        try:
            with ctx.commit(columns, unless_cancelled=True, actor=actor):
                result["done"].append({"row": count, **one(actor, item)})
        except DomainError as error:
            if isinstance(error, OperationError):
                raise
            # Rolled back whole; what was refused is a result, and the next one goes on.
            del result["done"][_count_of(result["done"], count) :]
            result["failed"].append(
                {
                    "row": count,
                    **describe(item),
                    "code": str(error.code),
                    "message": error.message,
                    "cure": error.cure,
                }
            )
            with ctx.commit(columns, unless_cancelled=True):
                pass
        count += 1
    ctx.detail = f"{len(result['done'])} done, {len(result['failed'])} refused"
    return None


def _count_of(done: list[dict[str, Any]], row: int) -> int:
    """Number of entries before that row."""
    return sum(1 for entry in done if entry["row"] < row)


BULK = Flow(run={"items": act_on_items})
CSV_CREATE = Flow(run={"rows": create_rows})
