"""Asking for long work: start, retry, cancel. The row is the truth; the message to a worker is only a wake-up."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from cloudkeys.models import Operation
from cloudkeys.operations.kinds import KINDS, TARGETS, Kind
from vault.actions import Action
from vault.actors import Actor
from vault.approvals import check_approval
from vault.celery import app
from vault.changes import change
from vault.errors import Conflict, PermissionDenied
from vault.models import Vault
from vault.permissions import Permission

log = logging.getLogger(__name__)

RUN_TASK = "cloudkeys.run_operation"
WAKE_AHEAD_S = 60.0
# After a broker failed to take a message, none is sent for so long.
BROKER_PAUSE_S = 10.0
_silent_until = 0.0


def start_operation(
    actor: Actor, kind: str, target: models.Model, *, input: dict[str, Any] | None = None
) -> Operation:
    """Ask for long work on `target`; call it inside the `change()` that makes it needed. The caller has authorised.

    Work on one target runs one after the other, in the order in which it was asked for. Same kind and input as the
    last waiting one that has not begun: that one is returned, since it will do what both ask. Raises Conflict when an
    exclusive kind meets an unfinished exclusive one, KeyError for an unknown kind, ValueError for a wrong target.
    A worker is woken when the transaction commits.
    """
    declared = KINDS[kind]
    target_type = target._meta.model_name or ""
    if target_type not in declared.targets:
        raise ValueError(f"{kind} works on {', '.join(declared.targets)}, not on {target_type}")
    vault = target if isinstance(target, Vault) else target.vault  # type: ignore[attr-defined]
    given = input or {}
    with change(actor):
        # Locking the target orders requests, so that the order of created_at is that of the commits.
        type(target)._base_manager.select_for_update().filter(pk=target.pk).first()
        # Locked too, in the order in which a worker claims them: one that seems not begun must not be claimed before
        # this commits, or it would do its work with what the row said before, and this request would be lost.
        unfinished = list(_unfinished(target.pk).select_for_update().order_by("created_at", "id"))
        if declared.exclusive:
            _refuse_conflict(declared, target, unfinished)
        last = unfinished[-1] if unfinished else None
        if last is not None and last.kind == kind and last.input == given and _not_begun(last):
            return last
        for other in unfinished:
            if other.kind in declared.supersedes:
                _request_cancel(other)
        operation = Operation.objects.create(
            vault=vault,
            kind=kind,
            target_type=target_type,
            target_id=target.pk,
            target_name=str(target)[:254],
            input=given,
            # Who asked, beyond the user: a worker that acts in somebody's name must not get more rights than that.
            memo={"actor": {"type": actor.kind, "token_id": str(actor.token.pk) if actor.token else ""}},
            steps=declared.new_steps(),
            requested_by=actor.user,
            requested_by_name=actor.display_name[:254],
            via=actor.via,
            request_id=actor.request_id,
        )
        wake(operation.pk)
    return operation


def _unfinished(target_id: UUID) -> models.QuerySet[Operation]:
    return Operation.objects.filter(target_id=target_id, state__in=Operation.UNFINISHED)


def _not_begun(operation: Operation) -> bool:
    return (
        not operation.lease_owner
        and not operation.attempts
        and not operation.step
        and not operation.cancel_requested
    )


def _refuse_conflict(declared: Kind, target: models.Model, unfinished: list[Operation]) -> None:
    for other in unfinished:
        if KINDS[other.kind].exclusive and not other.cancel_requested:
            raise Conflict(
                f"{KINDS[other.kind].label} is still under way for {target} (operation {other.pk}).",
                cure=f"Wait until it is done, or cancel operation {other.pk}.",
                operation=str(other.pk),
                wanted=declared.name,
            )


def retry_operation(actor: Actor, operation: Operation) -> Operation:
    """Begin a FAILED operation again: each step finds what is there already. Raises Conflict for any other.

    Past the step after which there is no way back it goes on where it stopped.
    """
    with change(actor) as tx:
        row = actor.fetch(Operation, operation.pk, Permission.OPERATIONS_MANAGE, lock=True)
        target = _require_on_target(actor, row)
        if row.state != Operation.State.FAILED:
            raise Conflict(
                f"Only a failed operation can be retried; this one is {row.get_state_display().lower()}.",
                cure="Look at the operation again.",
            )
        declared = KINDS[row.kind]
        if declared.exclusive:
            _refuse_conflict(declared, row, list(_unfinished(row.target_id)))
        if declared.guarded_by is not None and target is not None:
            check_approval(actor, declared.guarded_by, target)
        before = row.error
        # What was made and not undone stays known, so that it is taken up and not doubled.
        for name in ("undo_because", "reconnects"):
            row.memo.pop(name, None)
        if declared.may_cancel_at(row.step):
            row.steps = declared.new_steps()
            row.step = 0
        else:
            row.steps[row.step].update(state="PENDING", started_at=None, polls=0)
        row.state = Operation.State.WAITING
        row.error = None
        row.attempts = 0
        row.undoing = False
        row.cancel_requested = False
        row.next_try_at = None
        row.finished_at = None
        row.lease_owner = ""
        row.lease_until = None
        row.save()
        tx.audit(Action.OPERATION_RETRY, row, detail={"kind": row.kind, "error": before})
        wake(row.pk)
    return row


def cancel_operation(actor: Actor, operation: Operation) -> Operation:
    """Ask an unfinished operation to stop after its present step and to undo what it made.

    Raises Conflict when it is finished, or past the step after which there is no way back.
    """
    with change(actor) as tx:
        row = actor.fetch(Operation, operation.pk, Permission.OPERATIONS_MANAGE, lock=True)
        _require_on_target(actor, row)
        if row.state not in Operation.UNFINISHED:
            raise Conflict(
                f"This operation is over already: {row.get_state_display().lower()}.",
                cure="Nothing is left to cancel.",
            )
        if not KINDS[row.kind].may_cancel_at(row.step):
            raise Conflict(
                "This operation is past the step after which there is no way back.",
                cure="Let it finish, then do the opposite.",
            )
        if not row.cancel_requested:
            _request_cancel(row)
            tx.audit(Action.OPERATION_CANCEL, row, detail={"kind": row.kind, "step": row.step})
        row.refresh_from_db()
    return row


def cancel_superseded(target: models.Model, *kinds: str) -> None:
    """Ask unfinished operations of these kinds on `target` to stop and undo; call it inside the change that voids them.

    For acts that void pending work without starting work of their own (a start does it by `Kind.supersedes`).
    """
    wanted = _unfinished(target.pk).filter(kind__in=kinds, cancel_requested=False)
    # In the order in which workers lock them, or the two could wait for each other.
    for other in wanted.order_by("created_at", "id"):
        _request_cancel(other)


def require_manage(actor: Actor, row: Operation) -> None:
    """What retrying or cancelling `row` needs, for pages that show a button. Raises NotFound, PermissionDenied."""
    actor.require(Permission.OPERATIONS_MANAGE, row)
    _require_on_target(actor, row)


def _require_on_target(actor: Actor, row: Operation) -> models.Model | None:
    """The target; nobody gets by a retry or a cancel what they could not ask for themselves (role, group)."""
    declared = KINDS[row.kind]
    target = TARGETS[row.target_type]._default_manager.filter(pk=row.target_id).first()
    if target is None:
        return None
    actor.require(declared.permission, target)
    if declared.in_requesters_name and actor.user != row.requested_by and not actor.trusted:
        raise PermissionDenied(
            f"This operation acts in the name of {row.requested_by_name}; only they can retry or cancel it.",
            cure="Ask them, or start your own.",
        )
    return target


def _request_cancel(operation: Operation) -> None:
    # Only these columns: the worker that holds the lease writes the others. It is due now, whatever it waited for.
    now = timezone.now()
    Operation.objects.filter(pk=operation.pk, state__in=Operation.UNFINISHED).update(
        cancel_requested=True, next_try_at=now, updated_at=now
    )
    wake(operation.pk)


def wake(operation_id: UUID, after_s: float = 0.0) -> None:
    """Tell some worker, once the transaction commits, that an operation is due in `after_s` seconds.

    A message that is lost costs a few seconds: the sweep finds the row. So a broker that does not answer is logged
    and nothing more.
    """
    if after_s <= WAKE_AHEAD_S:
        transaction.on_commit(lambda: _send(operation_id, after_s))


def _send(operation_id: UUID, after_s: float) -> None:
    global _silent_until
    if time.monotonic() < _silent_until:
        return
    try:
        app.send_task(
            RUN_TASK,
            args=[str(operation_id)],
            countdown=after_s if after_s > 0 else None,
            ignore_result=True,
            retry=False,
            expires=3600,
        )
    except Exception as error:
        # Any transport has exceptions of its own. Nobody waits for a broker that is down: the sweep makes up for it.
        _silent_until = time.monotonic() + BROKER_PAUSE_S
        log.warning(
            "operation %s: no worker woken (%s); the sweep finds it", operation_id, type(error).__name__
        )


def wake_next(target_id: UUID) -> None:
    """Wake a worker for the next operation that waits behind one that has just finished."""
    following = (
        Operation.objects.filter(Q(next_try_at=None) | Q(next_try_at__lte=timezone.now()))
        .filter(target_id=target_id, state__in=Operation.UNFINISHED)
        .order_by("created_at", "id")
        .first()
    )
    if following is not None:
        wake(following.pk)
