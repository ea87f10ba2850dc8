"""The engine: claims, leases, fences, backoff, undo, cancel."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations import cancel_operation, runner, steps
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.runner import Outcome, backoff_s, run_operation
from cloudkeys.operations.steps import Later, StepContext
from cloudkeys.providers.base import ProviderError
from tests.cloudkeys.crashing import Crash, let_leases_run_out
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict, Unavailable
from vault.models import AuditEvent


def fails(error: Exception) -> Any:
    def run(ctx: StepContext) -> None:
        raise error

    return run


def transient(ctx: StepContext) -> None:
    raise ProviderError("throttled", "AWS is throttling.", "Wait.", permanent=False)


def due(operation: Operation) -> None:
    Operation.objects.filter(pk=operation.pk).update(next_try_at=None)


# --- the straight way ---------------------------------------------------------------------------------------------


def test_steps_run_in_order_and_are_written_down(
    declare: Any, start: Any, step: Any, calls: list[str]
) -> None:
    operation = start(declare("t.two", {"first": step("first"), "second": step("second")}))
    assert operation.state == "WAITING"
    assert [entry["state"] for entry in operation.steps] == ["PENDING", "PENDING"]
    assert run_operation(operation.pk) is Outcome.FINISHED
    operation.refresh_from_db()
    assert calls == ["first", "second"]
    assert (operation.state, operation.lease_owner, operation.lease_until) == ("SUCCEEDED", "", None)
    for entry in operation.steps:
        assert entry["state"] == "DONE"
        assert entry["started_at"] <= entry["ended_at"]
    event = AuditEvent.objects.get(action=Action.OPERATION_FINISH)
    assert (event.actor_type, event.outcome, event.request_id) == ("system", "SUCCESS", operation.request_id)
    assert event.detail["requested_by"] == "owner@example.com"


def test_what_is_finished_is_not_run_again(declare: Any, start: Any, step: Any, calls: list[str]) -> None:
    operation = start(declare("t.one", {"only": step("only")}))
    run_operation(operation.pk)
    assert run_operation(operation.pk) is Outcome.NOT_CLAIMED
    assert calls == ["only"]


def test_an_unknown_operation_is_nobodys(db: None) -> None:
    from uuid import uuid4

    assert run_operation(uuid4()) is Outcome.NOT_CLAIMED


def test_memo_of_a_commit_reaches_later_steps(declare: Any, start: Any) -> None:
    seen = []

    def make(ctx: StepContext) -> None:
        ctx.remember(made="cks-1")

    def use(ctx: StepContext) -> None:
        seen.append(ctx.memo["made"])
        ctx.operation.result = {"id": ctx.memo["made"]}

    operation = start(declare("t.memo", {"make": make, "use": use}))
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert seen == ["cks-1"]
    assert operation.result == {"id": "cks-1"}


# --- errors -------------------------------------------------------------------------------------------------------


def test_a_transient_error_is_told_and_tried_again_later(declare: Any, start: Any) -> None:
    operation = start(declare("t.transient", {"only": transient}))
    before = timezone.now()
    assert run_operation(operation.pk) is Outcome.WAITING
    operation.refresh_from_db()
    assert operation.state == "WAITING"
    assert operation.error == {
        "code": "throttled", "cause": "AWS is throttling.", "cure": "Wait.", "permanent": False, "step": "only",
    }  # fmt: skip
    assert operation.next_try_at is not None
    assert operation.next_try_at > before
    assert run_operation(operation.pk) is Outcome.NOT_CLAIMED
    due(operation)
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert operation.attempts == 2


def test_backoff_doubles_with_jitter_up_to_a_cap() -> None:
    for attempts in range(1, 60):
        whole = min(runner.BACKOFF_CAP_S, runner.BACKOFF_FIRST_S * 2 ** (attempts - 1))
        values = {backoff_s(attempts) for _ in range(20)}
        assert all(whole / 2 <= value <= whole for value in values)
        assert len(values) > 1


def test_transient_errors_end_after_the_kinds_patience(declare: Any, start: Any) -> None:
    operation = start(declare("t.patience", {"only": transient}, give_up_after=timedelta(0)))
    assert run_operation(operation.pk) is Outcome.FINISHED
    operation.refresh_from_db()
    assert operation.state == "FAILED"
    assert operation.error["permanent"] is True
    assert operation.error["cause"].startswith("Gave up after trying since")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderError("access_denied", "No.", permanent=True), "access_denied"),
        (OperationError("target_gone", "Gone.", permanent=True), "target_gone"),
        (Conflict("Not now.", cure="Later."), "conflict"),
    ],
)
def test_a_permanent_error_ends_it(declare: Any, start: Any, error: Exception, code: str) -> None:
    operation = start(declare("t.permanent", {"only": fails(error)}))
    assert run_operation(operation.pk) is Outcome.FINISHED
    operation.refresh_from_db()
    assert (operation.state, operation.error["code"]) == ("FAILED", code)
    assert operation.steps[0]["state"] == "FAILED"
    assert AuditEvent.objects.get(action=Action.OPERATION_FINISH).outcome == "FAILURE"


def test_what_is_unavailable_is_transient(declare: Any, start: Any) -> None:
    operation = start(declare("t.unavailable", {"only": fails(Unavailable("Database of the HSM is away."))}))
    assert run_operation(operation.pk) is Outcome.WAITING


def test_an_unforeseen_error_shows_nothing_of_itself_and_ends_after_some_tries(
    declare: Any, start: Any
) -> None:
    operation = start(declare("t.bug", {"only": fails(RuntimeError("secret wJalrXUtnFEMI"))}))
    for _ in range(runner.UNFORESEEN_TRIES):
        due(operation)
        run_operation(operation.pk)
    operation.refresh_from_db()
    assert operation.state == "FAILED"
    assert operation.error["code"] == "internal"
    assert "wJalr" not in str(operation.error) + str(operation.steps)


def test_a_database_error_gives_the_lease_back(declare: Any, start: Any) -> None:
    operation = start(declare("t.database", {"only": fails(OperationalError("database is locked"))}))
    assert run_operation(operation.pk) is Outcome.LEASE_LOST
    operation.refresh_from_db()
    assert operation.lease_owner == ""
    assert operation.error is None
    assert operation.state in Operation.UNFINISHED


def test_later_is_no_error(declare: Any, start: Any) -> None:
    answers = [Later(30, "AWS is connecting it"), None]
    operation = start(declare("t.later", {"only": lambda ctx: answers.pop(0)}))
    assert run_operation(operation.pk) is Outcome.WAITING
    operation.refresh_from_db()
    assert operation.error is None
    assert (operation.steps[0]["state"], operation.steps[0]["detail"]) == ("WAITING", "AWS is connecting it")
    assert operation.next_try_at is not None
    assert operation.next_try_at > timezone.now() + timedelta(seconds=25)
    due(operation)
    assert run_operation(operation.pk) is Outcome.FINISHED


def test_a_target_that_went_away_ends_it_with_the_truth(
    declare: Any, start: Any, account: CspAccount
) -> None:
    def use(ctx: StepContext) -> None:
        ctx.target()

    operation = start(
        declare("t.target", {"only": use}, on_failed=lambda ctx, tx, error: ctx.target(lock=True))
    )
    account.delete()
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.error["code"]) == ("FAILED", "target_gone")


# --- leases -------------------------------------------------------------------------------------------------------


def test_a_killed_workers_operation_is_taken_up_after_its_lease(
    declare: Any, start: Any, calls: list[str]
) -> None:
    def killed_once(ctx: StepContext) -> None:
        calls.append("second")
        if len(calls) == 2:
            raise Crash

    operation = start(
        declare("t.killed", {"first": lambda ctx: calls.append("first"), "second": killed_once})
    )
    with pytest.raises(Crash):
        run_operation(operation.pk)
    assert run_operation(operation.pk) is Outcome.NOT_CLAIMED
    assert runner.due_operations() == []
    let_leases_run_out()
    assert runner.due_operations() == [operation.pk]
    assert runner.sweep() == 1
    operation.refresh_from_db()
    assert operation.state == "SUCCEEDED"
    assert calls == ["first", "second", "second"]


def test_an_overtaken_worker_can_write_nothing(declare: Any, start: Any, account: CspAccount) -> None:
    """The lease ran out while a step was held up; another worker finished. The late one must change no row."""

    def held_up(ctx: StepContext) -> None:
        if ctx.operation.attempts > 1:
            return
        let_leases_run_out()
        assert run_operation(ctx.operation.pk) is Outcome.FINISHED
        with ctx.commit():
            CspAccount.objects.filter(pk=account.pk).update(description="written too late")

    operation = start(declare("t.overtaken", {"only": held_up}))
    assert run_operation(operation.pk) is Outcome.LEASE_LOST
    operation.refresh_from_db()
    account.refresh_from_db()
    assert operation.state == "SUCCEEDED"
    assert account.description == ""
    assert AuditEvent.objects.filter(action=Action.OPERATION_FINISH).count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_lease_is_renewed_while_a_step_runs(
    declare: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RENEW_EVERY_S", 0.02)
    renewed = threading.Event()
    original = runner._renewed

    def noted() -> dict[str, Any]:
        renewed.set()
        return original()

    monkeypatch.setattr(runner, "_renewed", noted)
    monkeypatch.setattr(steps, "LEASE_S", 0.001)
    operation = start(declare("t.long", {"only": lambda ctx: None if renewed.wait(10) else Later(0, "no")}))
    assert run_operation(operation.pk) is Outcome.FINISHED


@pytest.mark.django_db(transaction=True)
def test_many_workers_run_it_once(declare: Any, start: Any, calls: list[str]) -> None:
    inside = threading.Barrier(1)

    def only(ctx: StepContext) -> None:
        inside.wait()
        calls.append(threading.current_thread().name)

    operation = start(declare("t.race", {"only": only}))
    outcomes: list[Outcome] = []
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        try:
            outcomes.append(run_operation(operation.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(outcome.name for outcome in outcomes) == ["FINISHED"] + ["NOT_CLAIMED"] * 3


def test_a_process_that_ends_gives_the_lease_back_between_steps(
    declare: Any, start: Any, calls: list[str]
) -> None:
    def first(ctx: StepContext) -> None:
        calls.append("first")
        runner.stopping.set()

    operation = start(declare("t.stopping", {"first": first, "second": lambda ctx: calls.append("second")}))
    try:
        assert run_operation(operation.pk) is Outcome.WAITING
    finally:
        runner.stopping.clear()
    operation.refresh_from_db()
    assert calls == ["first"]
    assert operation.lease_owner == ""
    due(operation)
    assert run_operation(operation.pk) is Outcome.FINISHED
    assert calls == ["first", "second"]


# --- cancel and undo ----------------------------------------------------------------------------------------------


def undoable(calls: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    names = ("a", "b", "c")
    run = {name: (lambda ctx, name=name: calls.append(name)) for name in names}
    undo = {name: (lambda ctx, name=name: calls.append(f"undo {name}")) for name in ("a", "b")}
    return run, undo


def test_a_cancel_stops_between_steps_and_undoes_backwards(
    owner: Actor, declare: Any, start: Any, calls: list[str]
) -> None:
    run, undo = undoable(calls)
    operations: list[Operation] = []

    def cancelling(ctx: StepContext) -> None:
        calls.append("b")
        cancel_operation(owner, operations[0])

    operations.append(start(declare("t.cancel", {**run, "b": cancelling}, undo)))
    assert run_operation(operations[0].pk) is Outcome.FINISHED
    operation = operations[0]
    operation.refresh_from_db()
    assert operation.state == "CANCELLED"
    assert calls == ["a", "b", "undo b", "undo a"]
    assert [entry["state"] for entry in operation.steps] == ["UNDONE", "UNDONE", "RUNNING"]
    assert AuditEvent.objects.filter(action=Action.OPERATION_CANCEL).count() == 1


def test_what_never_began_is_cancelled_without_undoing(
    owner: Actor, declare: Any, start: Any, calls: list[str]
) -> None:
    run, undo = undoable(calls)
    operation = start(declare("t.early", run, undo))
    cancel_operation(owner, operation)
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert operation.state == "CANCELLED"
    assert calls == []


def test_a_cancel_makes_a_waiting_operation_due_at_once(owner: Actor, declare: Any, start: Any) -> None:
    operation = start(declare("t.waiting", {"only": lambda ctx: Later(3600, "patience")}))
    run_operation(operation.pk)
    cancel_operation(owner, operation)
    assert runner.sweep() == 1
    operation.refresh_from_db()
    assert operation.state == "CANCELLED"


def test_a_permanent_failure_undoes_where_the_flow_says_so(
    declare: Any, start: Any, calls: list[str]
) -> None:
    run, undo = undoable(calls)
    run["c"] = fails(OperationError("no", "It cannot be.", "Do else.", permanent=True))
    operation = start(declare("t.undo", run, undo, undo_on_failure=True))
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert operation.state == "FAILED"
    assert calls == ["a", "b", "undo b", "undo a"]
    assert operation.error["cause"] == "It cannot be."
    assert [entry["state"] for entry in operation.steps] == ["UNDONE", "UNDONE", "FAILED"]


def test_an_undo_that_cannot_be_done_now_is_tried_again(declare: Any, start: Any, calls: list[str]) -> None:
    run, undo = undoable(calls)
    run["c"] = fails(OperationError("no", "It cannot be.", permanent=True))
    troubles = [ProviderError("unreachable", "AWS is away.", permanent=False)]

    def undo_b(ctx: StepContext) -> None:
        if troubles:
            raise troubles.pop()
        calls.append("undo b")

    operation = start(declare("t.undo2", run, {**undo, "b": undo_b}, undo_on_failure=True))
    assert run_operation(operation.pk) is Outcome.WAITING
    operation.refresh_from_db()
    assert operation.undoing
    assert operation.steps[1]["state"] == "UNDOING"
    due(operation)
    assert run_operation(operation.pk) is Outcome.FINISHED
    operation.refresh_from_db()
    assert calls[-2:] == ["undo b", "undo a"]
    assert operation.error["cause"] == "It cannot be."


def test_an_undo_that_fails_for_good_says_so(declare: Any, start: Any, calls: list[str]) -> None:
    run, undo = undoable(calls)
    run["c"] = fails(OperationError("no", "It cannot be.", permanent=True))
    undo["b"] = fails(ProviderError("access_denied", "AWS denies DeleteKey.", permanent=True))
    operation = start(declare("t.undo3", run, undo, undo_on_failure=True))
    run_operation(operation.pk)
    operation.refresh_from_db()
    assert operation.state == "FAILED"
    assert operation.error["undo_failed"] is True
    assert operation.error["code"] == "access_denied"


def test_a_commit_that_a_cancel_forbids_is_rolled_back(
    owner: Actor, declare: Any, start: Any, account: CspAccount
) -> None:
    operations: list[Operation] = []

    def step(ctx: StepContext) -> None:
        cancel_operation(owner, operations[0])
        with ctx.commit(unless_cancelled=True):
            CspAccount.objects.filter(pk=account.pk).update(description="must not be")

    operations.append(start(declare("t.superseded", {"only": step})))
    run_operation(operations[0].pk)
    operations[0].refresh_from_db()
    account.refresh_from_db()
    assert operations[0].state == "CANCELLED"
    assert account.description == ""
