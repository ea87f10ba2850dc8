"""What is done by the clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys import upkeep
from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, Operation
from cloudkeys.operations import runner
from cloudkeys.services import stores
from tests.cloudkeys.cloud import (
    Aws,
    World,
    aws,
    connected,
    linked,
    new_world,
    proxy,
    simulated_account,
    tls_files,
    xks_workers,
)
from tests.cloudkeys.crashing import run_to_end
from vault.actions import Action
from vault.actors import Actor
from vault.models import AuditEvent, Vault

__all__ = ["aws", "proxy", "tls_files", "xks_workers"]

SYSTEM = Actor.system("worker")
LONG_AGO = timezone.now() - timedelta(days=1)


@pytest.fixture
def world(owner: Actor, payments: Vault, aws: Aws, xks_workers: Any) -> World:
    return connected(new_world(owner, payments, aws, simulated_account(owner, payments, aws), "pay"))


def test_a_due_credential_is_rotated_once(world: World) -> None:
    rows = CspAccount.objects.filter(pk=world.account.pk)
    assert upkeep.rotate_due_credentials(SYSTEM) == 0
    rows.update(next_rotation_at=timezone.now())
    assert upkeep.rotate_due_credentials(SYSTEM) == 1
    assert upkeep.rotate_due_credentials(SYSTEM) == 0
    operation = world.operation("csp_account.rotate_credential", world.account)
    assert operation.requested_by is None
    event = AuditEvent.objects.get(action=Action.CSP_CREDENTIAL_ROTATE)
    assert (event.actor_type, event.detail["why"]) == ("system", "schedule")


def test_a_rotation_that_failed_waits_for_a_person(world: World) -> None:
    CspAccount.objects.filter(pk=world.account.pk).update(next_rotation_at=timezone.now())
    upkeep.rotate_due_credentials(SYSTEM)
    Operation.objects.filter(kind="csp_account.rotate_credential").update(
        state="FAILED", finished_at=timezone.now()
    )
    assert upkeep.rotate_due_credentials(SYSTEM) == 0
    Operation.objects.filter(kind="csp_account.rotate_credential").update(finished_at=LONG_AGO)
    assert upkeep.rotate_due_credentials(SYSTEM) == 1


def test_links_are_asked_about_every_few_minutes(world: World) -> None:
    assert world.link is not None
    assert upkeep.refresh_due_links(SYSTEM) == 0
    AwsStoreLink.objects.filter(pk=world.link.pk).update(cloud_state_at=LONG_AGO)
    kms = world.aws.client("kms")
    kms.disconnect_custom_key_store(CustomKeyStoreId=world.link.custom_key_store_id)
    assert upkeep.refresh_due_links(SYSTEM) == 1
    assert upkeep.refresh_due_links(SYSTEM) == 0
    runner.sweep()
    world.link.refresh_from_db()
    assert world.link.state == "DISCONNECTED"


def test_pointers_are_asked_about_without_an_operation(world: World) -> None:
    key = linked(world, "payments-prod")
    assert upkeep.refresh_due_pointers(SYSTEM) == 0
    world.aws.client("kms").disable_key(KeyId=key.kms_key_id)
    CloudKey.objects.filter(pk=key.pk).update(cloud_state_at=LONG_AGO)
    before = Operation.objects.count()
    assert upkeep.refresh_due_pointers(SYSTEM) == 1
    assert Operation.objects.count() == before
    key.refresh_from_db()
    assert (key.state, key.cloud_state["state"]) == ("ENABLED", "Disabled")
    assert key.cloud_state["managed_alias"] == "alias/payments-prod"
    assert upkeep.refresh_due_pointers(SYSTEM) == 0


def test_a_pointer_that_went_away_is_audited(world: World) -> None:
    key = linked(world, "payments-prod")
    CloudKey.objects.filter(pk=key.pk).update(
        cloud_state_at=LONG_AGO, kms_key_id="00000000-0000-0000-0000-000000000000"
    )
    upkeep.refresh_due_pointers(SYSTEM)
    key.refresh_from_db()
    assert key.pointer_state == "GONE"
    event = AuditEvent.objects.filter(action=Action.CLOUD_KEY_POINTER, target_id=str(key.pk)).first()
    assert event is not None
    assert event.after is not None
    assert event.after["pointer_state"] == "GONE"


def test_an_account_that_does_not_answer_is_asked_once_a_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        linked(world, f"key-{number}")
    CloudKey.objects.update(cloud_state_at=LONG_AGO)
    asked: list[object] = []

    def silent(*_: Any) -> Any:
        asked.append(1)
        raise upkeep.ProviderError("unreachable", "AWS did not answer.", permanent=False)

    monkeypatch.setattr(upkeep, "open_provider", silent)
    assert upkeep.refresh_due_pointers(SYSTEM) == 0
    assert len(asked) == 1


def test_accounts_are_tested_on_a_schedule_and_failures_are_their_health(world: World) -> None:
    assert upkeep.look_at_due_accounts(SYSTEM) == 1
    world.account.refresh_from_db()
    assert world.account.health == "OK"
    assert upkeep.look_at_due_accounts(SYSTEM) == 0
    CspAccount.objects.filter(pk=world.account.pk).update(
        health_checked_at=LONG_AGO, access_key_id="AKIANOBODYKNOWSTHIS0"
    )
    assert upkeep.look_at_due_accounts(SYSTEM) == 1
    world.account.refresh_from_db()
    assert world.account.health == "FAILING"
    assert world.account.health_detail["error"]["code"] == "invalid_credential"


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_vault_that_is_off_is_left_alone(world: World, payments: Vault, state: str) -> None:
    linked(world, "payments-prod")
    Vault.objects.filter(pk=payments.pk).update(state=state)
    CspAccount.objects.update(next_rotation_at=LONG_AGO)
    AwsStoreLink.objects.update(cloud_state_at=LONG_AGO)
    CloudKey.objects.update(cloud_state_at=LONG_AGO)
    for work in (
        upkeep.rotate_due_credentials,
        upkeep.refresh_due_links,
        upkeep.refresh_due_pointers,
        upkeep.look_at_due_accounts,
    ):
        assert work(SYSTEM) == 0


def test_the_clocks_own_looks_leave_no_trace_but_what_they_found(world: World) -> None:
    AwsStoreLink.objects.update(cloud_state_at=LONG_AGO)
    events = AuditEvent.objects.count()
    assert upkeep.refresh_due_links(SYSTEM) == 1
    look = Operation.objects.get(kind="store_link.refresh")
    assert run_to_end(look).result["state"] == "CONNECTED"
    assert AuditEvent.objects.count() == events
    asked = stores.refresh_store(world.actor, look.target_id)
    run_to_end(asked)
    assert AuditEvent.objects.filter(action=Action.OPERATION_FINISH, target_id=str(asked.pk)).count() == 1
    assert upkeep.forget_old_refreshes() == 0
    Operation.objects.update(finished_at=LONG_AGO)
    assert upkeep.forget_old_refreshes() == 1
    assert not Operation.objects.filter(pk=look.pk).exists()
    assert Operation.objects.filter(pk=asked.pk).exists()
