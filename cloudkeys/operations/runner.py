"""Running long work: claim by lease, one step after the other, every write fenced, and nothing lost with a worker.

Safety rests on three things. A claim is a conditional UPDATE that must change one row, so one worker has the
operation. Every later write names that claim's owner token, so a worker that was overtaken (stopped, suspended,
cut off) can commit nothing more. And each step looks for what an earlier try made before it makes anything, so that
a try that was cut off between the cloud's answer and our commit is taken up and not doubled. Leases are compared by
the workers' own clocks; a clock that is wrong by more than LEASE_S makes a second worker run beside the first, which
the second and the third make harmless.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Case, DateTimeField, Q, Value, When
from django.utils import timezone

from cloudkeys.flows import FLOWS
from cloudkeys.models import Operation
from cloudkeys.operations.errors import LeaseLost, OperationError, Superseded
from cloudkeys.operations.kinds import KINDS
from cloudkeys.operations.requests import wake, wake_next
from cloudkeys.operations.steps import LEASE_S, Flow, Later, StepContext, StepFunction, as_text
from cloudkeys.providers.base import ProviderError
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import DomainError, Unavailable
from vault.models import AuditEvent

log = logging.getLogger(__name__)

RENEW_EVERY_S = 8.0
# A step that is still running after so long is stuck; its lease is let go, and every write of it is void by then.
LONGEST_STEP_S = 900.0
BACKOFF_FIRST_S = 1.0
BACKOFF_CAP_S = 300.0
SWEEP_LIMIT = 100
# A sweep goes on for so long at most; the next one takes what is left.
SWEEP_S = 20.0
# An error that we did not foresee is most often a fault of ours: it is retried, but not for a day.
UNFORESEEN_TRIES = 5

# Set when this process is to end: operations stop between two steps and their leases are given back.
stopping = threading.Event()


class Outcome(Enum):
    """How a run ended, for logs and tests."""

    NOT_CLAIMED = "not claimed"
    FINISHED = "finished"
    WAITING = "waiting"
    LEASE_LOST = "lease lost"


def backoff_s(attempts: int) -> float:
    """Seconds until the next try after `attempts` failed ones (1, 2, ...): doubling, capped, with half of it jitter."""
    whole = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(attempts - 1, 20))
    # Jitter spreads retries; nobody gains by guessing it.
    return whole * random.uniform(0.5, 1.0)  # noqa: S311


# --- claiming -----------------------------------------------------------------------------------------------------


def sweep(limit: int = SWEEP_LIMIT) -> int:
    """Run every operation that is due or was abandoned, oldest first; returns how many were run.

    Any number of sweeps may run at once, on any number of machines.
    """
    count = 0
    began = time.monotonic()
    for operation_id in due_operations(limit):
        if stopping.is_set() or time.monotonic() - began > SWEEP_S:
            break
        if run_operation(operation_id) is not Outcome.NOT_CLAIMED:
            count += 1
    return count


def due_operations(limit: int = SWEEP_LIMIT) -> list[UUID]:
    """Operations that wait for nobody and no time: never begun, due again, or abandoned by a worker that died."""
    now = timezone.now()
    rows = Operation.objects.filter(_is_due(now), state__in=Operation.UNFINISHED).order_by("created_at", "id")
    return list(rows.values_list("pk", flat=True)[:limit])


def _is_due(now: datetime) -> Q:
    return (Q(next_try_at=None) | Q(next_try_at__lte=now)) & (Q(lease_until=None) | Q(lease_until__lte=now))


def _claim(operation_id: UUID, owner: str) -> bool:
    """Take the lease; False when the operation is not due, or another one of its target goes first."""
    now = timezone.now()
    with change(_worker()):
        wanted = Operation.objects.filter(pk=operation_id).values_list("target_id", flat=True).first()
        if wanted is None:
            return False
        # Locked in one order by everyone, so that two operations of one target are never claimed at once.
        queue = list(
            Operation.objects.select_for_update()
            .filter(target_id=wanted, state__in=Operation.UNFINISHED)
            .order_by("created_at", "id")
        )
        mine = next((row for row in queue if row.pk == operation_id), None)
        if mine is None or not _is_first(mine, queue, now):
            return False
        claimed = Operation.objects.filter(
            _is_due(now), pk=operation_id, state__in=Operation.UNFINISHED
        ).update(
            state=Operation.State.RUNNING,
            lease_owner=owner,
            lease_until=now + timedelta(seconds=LEASE_S),
            attempts=mine.attempts + 1,
            updated_at=now,
        )
        return claimed == 1


def _is_first(mine: Operation, queue: list[Operation], now: datetime) -> bool:
    for other in queue:
        if other.pk == mine.pk:
            continue
        if other.lease_until is not None and other.lease_until > now:
            return False
    # What was cancelled before it began has nothing to undo and need not wait for its turn.
    return queue[0].pk == mine.pk or (mine.cancel_requested and mine.step == 0 and not mine.attempts)


def _worker(operation: Operation | None = None) -> Actor:
    return Actor.system("worker", request_id=operation.request_id if operation else "")


@contextmanager
def _lease_kept(operation_id: UUID, owner: str) -> Iterator[None]:
    """Renew the lease while the block runs, by a thread, since a step may wait for the cloud longer than a lease."""
    stop = threading.Event()

    def renew() -> None:
        try:
            for _ in range(int(LONGEST_STEP_S / RENEW_EVERY_S)):
                if stop.wait(RENEW_EVERY_S):
                    return
                try:
                    rows = Operation.objects.filter(pk=operation_id, lease_owner=owner)
                    if not rows.update(**_renewed()):
                        return
                except (DatabaseError, InterfaceError) as error:
                    log.warning("operation %s: lease not renewed (%s)", operation_id, type(error).__name__)
                    connections.close_all()
        finally:
            connections.close_all()

    keeper = threading.Thread(target=renew, name=f"lease-{operation_id}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(timeout=5)


def _renewed() -> dict[str, Any]:
    return {"lease_until": timezone.now() + timedelta(seconds=LEASE_S)}


# --- running ------------------------------------------------------------------------------------------------------


def run_operation(operation_id: UUID) -> Outcome:
    """Claim an operation and take it as far as it goes now. Raises nothing but what ends the process.

    Database errors leave the lease as it is: the sweep finds the operation once the lease has run out.
    """
    owner = f"{socket.gethostname()[:24]}:{os.getpid()}:{uuid.uuid4().hex[:16]}"
    try:
        if not _claim(operation_id, owner):
            return Outcome.NOT_CLAIMED
        with _lease_kept(operation_id, owner):
            while not stopping.is_set():
                outcome = _advance(operation_id, owner)
                if outcome is not None:
                    return outcome
            _let_go(operation_id, owner, after_s=0.0)
            return Outcome.WAITING
    except LeaseLost:
        log.warning("operation %s: taken over by another worker", operation_id)
        return Outcome.LEASE_LOST
    except (DatabaseError, InterfaceError):
        log.exception("operation %s: the database failed; to be taken up again", operation_id)
        _let_go(operation_id, owner, after_s=BACKOFF_FIRST_S)
        return Outcome.LEASE_LOST


def _let_go(operation_id: UUID, owner: str, *, after_s: float) -> None:
    """Give the lease back, if that can be done; otherwise it runs out by itself."""
    try:
        Operation.objects.filter(pk=operation_id, lease_owner=owner).update(
            lease_owner="", lease_until=None, next_try_at=timezone.now() + timedelta(seconds=after_s)
        )
    except (DatabaseError, InterfaceError) as error:
        log.warning("operation %s: its lease runs out by itself (%s)", operation_id, type(error).__name__)


def _advance(operation_id: UUID, owner: str) -> Outcome | None:
    """Do the next thing: a step, an undo, or the end. None when there is more to do at once."""
    operation = Operation.objects.filter(pk=operation_id, lease_owner=owner).first()
    if operation is None:
        raise LeaseLost
    ctx = StepContext(operation, owner, _worker(operation))
    flow = FLOWS[operation.kind]
    if operation.undoing:
        return _undo_next(ctx, flow)
    if operation.cancel_requested and KINDS[operation.kind].may_cancel_at(operation.step):
        return _turn_back(ctx)
    if ctx.entry["state"] not in ("RUNNING", "WAITING"):
        _mark_running(ctx)
        with ctx.commit({"steps": operation.steps}):
            pass
    return _attempt(ctx, flow, flow.run[ctx.entry["name"]])


def _mark_running(ctx: StepContext) -> None:
    ctx.entry["state"] = "RUNNING"
    ctx.entry["started_at"] = ctx.entry["started_at"] or as_text(timezone.now())
    ctx.entry["ended_at"] = None


def _attempt(ctx: StepContext, flow: Flow, function: StepFunction) -> Outcome | None:
    """Call a step (forward or undo) and write down what came of it."""
    try:
        answer = function(ctx)
    except (LeaseLost, DatabaseError, InterfaceError):
        raise
    except Superseded:
        return None
    except (ProviderError, OperationError) as error:
        return _failed(ctx, flow, error.code, error.cause, error.cure, permanent=error.permanent)
    except Unavailable as error:
        return _failed(ctx, flow, error.code, error.message, error.cure, permanent=False)
    except DomainError as error:
        return _failed(ctx, flow, error.code, error.message, error.cure, permanent=True)
    except Exception as error:
        # What it says may hold anything, so only its kind reaches the row; the log has the rest.
        log.exception("operation %s: unforeseen error in step %s", ctx.operation.pk, ctx.entry["name"])
        return _failed(
            ctx,
            flow,
            "internal",
            f"An unforeseen error ({type(error).__name__}) in Keystead itself.",
            f"Look in the worker's log for operation {ctx.operation.pk}, then retry.",
            permanent=ctx.operation.attempts >= UNFORESEEN_TRIES,
        )
    if isinstance(answer, Later):
        return _wait(ctx, answer)
    if ctx.operation.undoing:
        _undone(ctx)
        return None
    return _done(ctx)


def _wait(ctx: StepContext, answer: Later) -> Outcome:
    """Nothing is wrong, it only takes time: let the lease go until then."""
    entry = ctx.entry
    entry["state"] = "UNDOING" if ctx.operation.undoing else "WAITING"
    entry["detail"] = answer.detail
    entry["polls"] += 1
    _release(ctx, answer.after_s, error=None, attempts=0)
    return Outcome.WAITING


def _release(ctx: StepContext, after_s: float, **columns: Any) -> None:
    now = timezone.now()
    # A cancel that came meanwhile made the operation due at once; that must not be put off.
    at_once = When(cancel_requested=True, undoing=False, then=Value(now, output_field=DateTimeField()))
    later = Value(now + timedelta(seconds=after_s), output_field=DateTimeField())
    values = {
        "steps": ctx.operation.steps,
        "state": Operation.State.WAITING,
        "next_try_at": Case(at_once, default=later),
        "lease_owner": "",
        "lease_until": None,
        **columns,
    }
    with ctx.commit(values):
        wake(ctx.operation.pk, after_s)


def _done(ctx: StepContext) -> Outcome | None:
    operation = ctx.operation
    entry = ctx.entry
    entry.update(state="DONE", ended_at=as_text(timezone.now()), detail=ctx.detail or "")
    if operation.step + 1 == len(operation.steps):
        operation.step += 1
        return _finish(ctx, Operation.State.SUCCEEDED, None, None)
    operation.step += 1
    _mark_running(ctx)
    with ctx.commit({"steps": operation.steps, "step": operation.step, "attempts": 1, "error": None}):
        pass
    return None


def _failed(
    ctx: StepContext, flow: Flow, code: str, cause: str, cure: str, *, permanent: bool
) -> Outcome | None:
    operation = ctx.operation
    error = {"code": code, "cause": cause, "cure": cure, "permanent": permanent, "step": ctx.entry["name"]}
    entry = ctx.entry
    entry["detail"] = cause
    declared = KINDS[operation.kind]
    if not permanent and ctx.step_age_s > declared.give_up_after.total_seconds():
        permanent = True
        error = {
            **error,
            "permanent": True,
            "cause": f"Gave up after trying since {entry['started_at']}. {cause}",
        }
    if not permanent:
        entry["state"] = "UNDOING" if operation.undoing else "RUNNING"
        log.info(
            "operation %s (%s): step %s to be retried: %s", operation.pk, operation.kind, entry["name"], code
        )
        _release(ctx, backoff_s(operation.attempts), error=error)
        return Outcome.WAITING
    entry.update(state="FAILED", ended_at=as_text(timezone.now()))
    if operation.undoing:
        # What could not be undone stays named in the error, and a retry of the operation tries the undo again.
        return _finish(ctx, Operation.State.FAILED, flow.on_failed, {**error, "undo_failed": True})
    if flow.undo_on_failure and declared.may_cancel_at(operation.step):
        return _turn_back(ctx, error)
    return _finish(ctx, Operation.State.FAILED, flow.on_failed, error)


# --- undoing ------------------------------------------------------------------------------------------------------


def _turn_back(ctx: StepContext, error: dict[str, Any] | None = None) -> Outcome | None:
    """Begin to run backwards, from the step that was begun last."""
    operation = ctx.operation
    operation.undoing = True
    operation.memo["undo_because"] = error
    with ctx.commit({"steps": operation.steps, "undoing": True, "attempts": 1, "error": error}):
        pass
    return None


def _undo_next(ctx: StepContext, flow: Flow) -> Outcome | None:
    """Undo the last step that was begun and that can be undone; steps without undo made nothing outside."""
    operation = ctx.operation
    for index in range(operation.step, -1, -1):
        entry = operation.steps[index]
        if entry["started_at"] and entry["state"] != "UNDONE" and entry["name"] in flow.undo:
            break
    else:
        return _end_undo(ctx, flow)
    operation.step = index
    if entry["state"] != "UNDOING":
        entry["state"] = "UNDOING"
        entry["undo_started_at"] = as_text(timezone.now())
        entry["polls"] = 0
        with ctx.commit({"steps": operation.steps, "step": index}):
            pass
    return _attempt(ctx, flow, flow.undo[entry["name"]])


def _undone(ctx: StepContext) -> None:
    entry = ctx.entry
    entry.update(state="UNDONE", ended_at=as_text(timezone.now()), detail=ctx.detail or entry["detail"])
    with ctx.commit({"steps": ctx.operation.steps, "attempts": 1}):
        pass


def _end_undo(ctx: StepContext, flow: Flow) -> Outcome:
    why = ctx.operation.memo.get("undo_because")
    if why is None:
        return _finish(ctx, Operation.State.CANCELLED, flow.on_cancelled, None)
    return _finish(ctx, Operation.State.FAILED, flow.on_failed, {**why, "undone": True})


# --- the end ------------------------------------------------------------------------------------------------------


def _finish(ctx: StepContext, state: Operation.State, hook: Any, error: dict[str, Any] | None) -> Outcome:
    operation = ctx.operation
    columns = {
        "state": state,
        "steps": operation.steps,
        "step": min(operation.step, len(operation.steps) - 1),
        "error": error,
        "undoing": False,
        "next_try_at": None,
        "lease_owner": "",
        "lease_until": None,
        "finished_at": timezone.now(),
    }
    with ctx.commit(columns) as tx:
        if hook is not None:
            _call_hook(ctx, tx, hook, error)
        # A look by the clock that found nothing to say is no event; what it finds changed, the step itself records.
        quiet = operation.kind.endswith(".refresh") and not operation.requested_by_id and error is None
        if not quiet:
            _record_end(tx, operation, state, error)
        columns["result"] = operation.result
        wake_next(operation.target_id)
    return Outcome.FINISHED


def _record_end(
    tx: Change, operation: Operation, state: Operation.State, error: dict[str, Any] | None
) -> None:
    tx.audit(
        Action.OPERATION_FINISH,
        operation,
        target_name=f"{KINDS[operation.kind].label}: {operation.target_name}",
        outcome=AuditEvent.Outcome.FAILURE if state == Operation.State.FAILED else AuditEvent.Outcome.SUCCESS,
        reason=(error or {}).get("cause", ""),
        after={"state": state.value},
        detail={
            "kind": operation.kind,
            "target_type": operation.target_type,
            "target_id": str(operation.target_id),
            "requested_by": operation.requested_by_name,
            "via": operation.via,
            "error": error,
        },
    )


def _call_hook(ctx: StepContext, tx: Change, hook: Any, error: dict[str, Any] | None) -> None:
    try:
        hook(ctx, tx, error)
    except OperationError as gone:
        # The target itself was deleted meanwhile: there is no row left to say it on.
        if gone.code != "target_gone":
            raise
