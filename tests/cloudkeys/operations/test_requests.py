"""Asking for work: order, conflicts, rights, wake-ups."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from cloudkeys.flows import FLOWS
from cloudkeys.models import CloudKey, CspAccount, KeySet, Operation
from cloudkeys.operations import KINDS, cancel_operation, requests, retry_operation, runner, start_operation
from cloudkeys.operations.kinds import TARGETS
from tests.cloudkeys.operations.conftest import Declare, Start
from tests.cloudkeys.world import new_key
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NeedsApproval, NotFound, PermissionDenied
from vault.models import Group
from vault.permissions import Permission


def test_kinds_and_flows_name_the_same_steps() -> None:
    assert set(FLOWS) == set(KINDS)
    for name, kind in KINDS.items():
        steps = [step.name for step in kind.steps]
        assert list(FLOWS[name].run) == steps, name
        assert set(FLOWS[name].undo) <= set(steps)
        assert kind.name == name
        assert kind.supersedes <= set(KINDS)
        assert not kind.no_return or kind.no_return in steps
        assert set(kind.targets) <= set(TARGETS)
        assert all(step.label for step in kind.steps)


def test_nobody_but_a_worker_is_woken_and_only_after_the_commit(
    declare: Any,
    start: Any,
    step: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    sent: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(requests.app, "send_task", lambda name, args, **_: sent.append((name, args)))
    with django_capture_on_commit_callbacks(execute=True):
        operation = start(declare("t.wake", {"only": step("only")}))
        assert sent == []
    assert sent == [("cloudkeys.run_operation", [str(operation.pk)])]


def test_a_broker_that_is_down_fails_nothing_and_is_not_asked_each_time(
    declare: Any,
    start: Any,
    step: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    asked: list[str] = []

    def down(name: str, **_: Any) -> None:
        asked.append(name)
        raise ConnectionError("broker://user:password@host")

    monkeypatch.setattr(requests.app, "send_task", down)
    monkeypatch.setattr(requests, "_silent_until", 0.0)
    kind = declare("t.down", {"only": step("only")})
    for number in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            start(kind, number=number)
    assert len(asked) == 1
    assert runner.sweep() == 3


# --- order --------------------------------------------------------------------------------------------------------


def test_work_on_one_target_is_done_in_order(declare: Any, start: Any, step: Any, calls: list[str]) -> None:
    one, two = (declare(f"t.{name}", {"only": step(name)}) for name in ("one", "two"))
    first, second = start(one), start(two)
    assert runner.run_operation(second.pk) is runner.Outcome.NOT_CLAIMED
    assert runner.sweep() == 2
    assert calls == ["one", "two"]
    assert first.created_at <= second.created_at


def test_work_on_other_targets_does_not_wait(
    owner: Actor, key_set: KeySet, declare: Any, start: Any, step: Any, calls: list[str]
) -> None:
    from cloudkeys.operations.steps import Later

    start(declare("t.slow", {"only": lambda ctx: Later(60, "slow")}))
    key = new_key(owner, key_set)
    runner.sweep()
    with change(owner):
        other = start_operation(owner, "cloud_key.refresh", key)
    assert runner.run_operation(other.pk) is not runner.Outcome.NOT_CLAIMED


def test_a_cancelled_one_that_waits_in_the_queue_need_not_wait(
    owner: Actor, declare: Any, start: Any, step: Any
) -> None:
    from cloudkeys.operations.steps import Later

    first = start(declare("t.first", {"only": lambda ctx: Later(3600, "slow")}))
    second = start(declare("t.second", {"only": step("second")}))
    runner.run_operation(first.pk)
    cancel_operation(owner, second)
    assert runner.run_operation(second.pk) is runner.Outcome.FINISHED


def test_the_same_wish_twice_is_one_operation_until_it_begins(declare: Any, start: Any) -> None:
    from cloudkeys.operations.steps import Later

    kind = declare("t.same", {"only": lambda ctx: Later(60, "slow")})
    first = start(kind)
    assert start(kind).pk == first.pk
    assert start(kind, other=True).pk != first.pk
    runner.run_operation(first.pk)
    assert start(kind).pk != first.pk


def test_two_exclusive_ones_conflict_by_name(declare: Any, start: Any, step: Any) -> None:
    a = declare("t.a", {"only": step("a")}, exclusive=True)
    b = declare("t.b", {"only": step("b")}, exclusive=True)
    first = start(a)
    with pytest.raises(Conflict) as caught:
        start(b)
    assert str(first.pk) in caught.value.message
    assert caught.value.context["operation"] == str(first.pk)
    runner.run_operation(first.pk)
    assert start(b).kind == "t.b"


def test_a_superseding_kind_cancels_what_it_voids(owner: Actor, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    with change(owner):
        enable = start_operation(owner, "cloud_key.enable", key)
        disable = start_operation(owner, "cloud_key.disable_pointer", key)
    enable.refresh_from_db()
    disable.refresh_from_db()
    assert (enable.cancel_requested, disable.cancel_requested) == (True, False)


def test_kind_and_target_must_fit(owner: Actor, account: CspAccount) -> None:
    with pytest.raises(ValueError, match="works on cloudkey"), change(owner):
        start_operation(owner, "cloud_key.refresh", account)
    with pytest.raises(KeyError), change(owner):
        start_operation(owner, "cloud_key.nonsense", account)
    assert Operation.objects.count() == 0


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed_enable(owner: Actor, key_set: KeySet) -> Operation:
    key = new_key(owner, key_set)
    with change(owner):
        operation = start_operation(owner, "cloud_key.enable", key)
    Operation.objects.filter(pk=operation.pk).update(state="FAILED")
    CloudKey.objects.filter(pk=key.pk).update(state="DISABLED")
    operation.refresh_from_db()
    return operation


def test_a_retry_or_cancel_needs_the_right_to_ask_for_it(
    owner: Actor, colleague: Actor, auditor: Actor, outsider: Actor, declare: Any, start: Any, step: Any
) -> None:
    """Managing operations is no way around a permission: a cloud admin may not unblock."""
    kind = declare("t.guarded", {"only": step("only")}, permission=Permission.CLOUD_KEYS_UNBLOCK)
    operation = start(kind)
    for act in (retry_operation, cancel_operation):
        for actor in (colleague, auditor):
            with pytest.raises(PermissionDenied):
                act(actor, operation)
        with pytest.raises(NotFound):
            act(outsider, operation)
    operation.refresh_from_db()
    assert (operation.state, operation.cancel_requested) == ("WAITING", False)
    Operation.objects.filter(pk=operation.pk).update(state="FAILED")
    assert retry_operation(owner, operation).state == "WAITING"
    assert cancel_operation(owner, operation).cancel_requested


def test_a_retry_of_a_guarded_act_asks_for_approval_again(
    owner: Actor, failed_enable: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(actor: Actor, action: Action, target: object) -> None:
        raise NeedsApproval(f"{action} needs the consent of another person.")

    monkeypatch.setattr(requests, "check_approval", refuse)
    with pytest.raises(NeedsApproval, match="cloud_key:enable"):
        retry_operation(owner, failed_enable)


def test_the_group_that_owns_the_target_counts(owner: Actor, colleague: Actor, account: CspAccount) -> None:
    account.group = Group.objects.create(vault=account.vault, name="Others")
    account.save()
    with change(owner):
        operation = start_operation(owner, "csp_account.rotate_credential", account)
    with pytest.raises(PermissionDenied, match="admin group"):
        cancel_operation(colleague, operation)


@pytest.mark.parametrize("state", ["WAITING", "RUNNING", "SUCCEEDED", "CANCELLED"])
def test_only_what_failed_is_retried(owner: Actor, failed_enable: Operation, state: str) -> None:
    Operation.objects.filter(pk=failed_enable.pk).update(state=state)
    with pytest.raises(Conflict):
        retry_operation(owner, failed_enable)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_only_what_is_under_way_is_cancelled(owner: Actor, failed_enable: Operation, state: str) -> None:
    Operation.objects.filter(pk=failed_enable.pk).update(state=state)
    with pytest.raises(Conflict):
        cancel_operation(owner, failed_enable)


def test_no_operation_row_holds_a_secret(owner: Actor, account: CspAccount) -> None:
    from tests.cloudkeys.world import SECRET

    with change(owner):
        operation = start_operation(owner, "csp_account.rotate_credential", account)
    assert SECRET not in str(Operation.objects.filter(pk=operation.pk).values().get())


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time anyway")
@pytest.mark.django_db(transaction=True)
def test_an_operation_that_answers_a_second_request_cannot_be_claimed_before_that_commits(
    owner: Actor, account: CspAccount, declare: Declare, start: Start, step: Any
) -> None:
    """Or a worker would do it with what the row said before the second request, which would be lost."""
    kind = declare("test.update", {"one": step("one")})
    first = start(kind)
    other = connections.create_connection("default")
    try:
        with change(owner):
            assert start_operation(owner, kind, account) == first
            with other.cursor() as cursor, pytest.raises(OperationalError):
                cursor.execute(
                    "SELECT 1 FROM cloudkeys_operation WHERE id = %s FOR UPDATE NOWAIT", [str(first.pk)]
                )
    finally:
        other.close()
