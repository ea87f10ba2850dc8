"""Tasks are thin, and the beat names each of them."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings

from cloudkeys import tasks
from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations import runner, start_operation
from vault.actors import Actor
from vault.celery import app
from vault.changes import change


def test_the_beat_sends_every_task_but_the_one_of_a_single_operation() -> None:
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if name.startswith("cloudkeys.")}
    scheduled = {str(entry["task"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert ours - scheduled == {tasks.RUN_TASK}
    assert {name for name in scheduled if name.startswith("cloudkeys.")} <= ours


def test_a_message_that_nobody_took_in_time_expires() -> None:
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        assert entry["options"]["expires"] <= entry["schedule"]  # type: ignore[index]


def test_the_sweep_runs_what_no_message_told_of(owner: Actor, account: CspAccount, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = False
    CspAccount.objects.filter(pk=account.pk).update(partition="simulator")
    with change(owner):
        operation = start_operation(owner, "csp_account.rotate_credential", account)
    assert tasks.sweep_operations() == 1
    operation.refresh_from_db()
    assert operation.error["code"] == "simulator_off"


def test_a_message_for_an_operation_that_is_over_does_nothing(owner: Actor, account: CspAccount) -> None:
    with change(owner):
        operation = start_operation(owner, "csp_account.rotate_credential", account)
    Operation.objects.filter(pk=operation.pk).update(state="SUCCEEDED")
    assert tasks.run_operation(str(operation.pk)) == "not claimed"


def test_a_worker_that_starts_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    class Sender:
        class app:  # noqa: N801 - Celery's consumer has it so
            send_task = staticmethod(lambda name, **_: sent.append(name))

    tasks.sweep_at_start(Sender())
    assert sent == [tasks.SWEEP_TASK]


@pytest.mark.django_db
def test_a_worker_that_ends_stops_between_steps() -> None:
    try:
        tasks.stop_between_steps()
        assert runner.stopping.is_set()
        assert runner.sweep() == 0
    finally:
        runner.stopping.clear()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "task",
    [
        tasks.rotate_due_keys,
        tasks.expire_due_keys,
        tasks.finish_due_deletions,
        tasks.rotate_due_credentials,
        tasks.refresh_due_links,
        tasks.refresh_due_pointers,
        tasks.look_at_due_accounts,
        tasks.forget_old_refreshes,
    ],
    ids=lambda task: str(task.name),
)
def test_with_nothing_due_nothing_is_done(task: Any) -> None:
    assert task() == 0


@pytest.mark.django_db
def test_the_command_sweeps_once(capsys: pytest.CaptureFixture[str]) -> None:
    from django.core.management import call_command

    call_command("operations_sweep")
    assert capsys.readouterr().out == "0 operations run.\n"
