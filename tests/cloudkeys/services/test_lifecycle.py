"""Disable, enable, block, delete, expire: what each does to the row, to AWS, and to the data plane."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.operations import start_operation
from cloudkeys.services import lifecycle
from cloudkeys.services.key_sets import update_key_set
from tests.cloudkeys.world import new_key, pretend_linked
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, DomainError, NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.models import AuditEvent, GenerationChange, Vault

SYSTEM = Actor.system("worker")


@pytest.fixture
def key(owner: Actor, key_set: KeySet) -> CloudKey:
    return new_key(owner, key_set)


def kinds(key: CloudKey) -> list[str]:
    return list(
        Operation.objects.filter(target_id=key.pk).order_by("created_at").values_list("kind", flat=True)
    )


def let_window_pass(key: CloudKey) -> None:
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(seconds=1))


def test_disable_is_one_transaction_of_row_audit_and_generation(owner: Actor, key: CloudKey) -> None:
    done = lifecycle.disable_cloud_key(owner, key.pk, reason="Suspected breach")
    key.refresh_from_db()
    assert (key.state, key.state_reason, key.revision) == ("DISABLED", "Suspected breach", 2)
    event = AuditEvent.objects.get(action=Action.CLOUD_KEY_DISABLE)
    assert event.before == {"state": "ENABLED"}
    assert event.after is not None
    assert event.after["state"] == "DISABLED"
    assert (event.actor_name, event.reason, event.generation) == (
        "owner@example.com",
        "Suspected breach",
        done.generation,
    )
    assert GenerationChange.objects.filter(generation=done.generation, kind="KEY", object_id=key.pk).exists()
    assert done.operation is None


def test_disable_twice_changes_nothing_and_still_answers(owner: Actor, key: CloudKey) -> None:
    first = lifecycle.disable_cloud_key(owner, key.pk, reason="")
    again = lifecycle.disable_cloud_key(owner, key.pk, reason="")
    assert again.generation == first.generation
    assert AuditEvent.objects.filter(action=Action.CLOUD_KEY_DISABLE).count() == 1


def test_disable_of_a_linked_key_tells_aws_afterwards(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    done = lifecycle.disable_cloud_key(owner, key.pk, reason="")
    assert done.key.state == "DISABLED"
    assert kinds(key) == ["cloud_key.disable_pointer"]


def test_enable_of_a_linked_key_asks_aws_first(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    lifecycle.disable_cloud_key(owner, key.pk, reason="")
    done = lifecycle.enable_cloud_key(owner, key.pk)
    key.refresh_from_db()
    assert key.state == "DISABLED"
    assert done.operation is not None
    assert done.operation.kind == "cloud_key.enable"


def test_enable_of_an_unlinked_key_is_immediate(owner: Actor, key: CloudKey) -> None:
    lifecycle.disable_cloud_key(owner, key.pk, reason="")
    done = lifecycle.enable_cloud_key(owner, key.pk)
    key.refresh_from_db()
    assert key.state == "ENABLED"
    assert done.generation > 0


def test_a_disable_stops_an_enable_that_is_on_its_way(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    lifecycle.disable_cloud_key(owner, key.pk, reason="")
    enable = lifecycle.enable_cloud_key(owner, key.pk).operation
    assert enable is not None
    lifecycle.disable_cloud_key(owner, key.pk, reason="No, stop")
    enable.refresh_from_db()
    assert enable.cancel_requested


def test_block_and_unblock_leave_state_and_aws_alone(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    assert lifecycle.block_cloud_key(owner, key.pk, reason="Incident 7").generation > 0
    key.refresh_from_db()
    assert (key.blocked, key.state) == (True, "ENABLED")
    lifecycle.unblock_cloud_key(owner, key.pk)
    key.refresh_from_db()
    assert not key.blocked
    assert kinds(key) == []


def test_one_may_block_without_being_able_to_unblock(colleague: Actor, key: CloudKey) -> None:
    lifecycle.block_cloud_key(colleague, key.pk, reason="")
    with pytest.raises(PermissionDenied):
        lifecycle.unblock_cloud_key(colleague, key.pk)


def test_deletion_needs_the_name_and_can_be_taken_back_to_disabled(owner: Actor, key: CloudKey) -> None:
    with pytest.raises(ValidationFailed) as caught:
        lifecycle.schedule_deletion(owner, key.pk, confirm_name="payments")
    assert caught.value.field == "confirm_name"
    for days in (6, 31, True):
        with pytest.raises(ValidationFailed):
            lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name, window_days=days)
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name, window_days=7)
    key.refresh_from_db()
    assert key.state == "PENDING_DELETION"
    assert key.delete_after is not None
    lifecycle.cancel_deletion(owner, key.pk)
    key.refresh_from_db()
    assert (key.state, key.delete_after) == ("DISABLED", None)


def test_material_stays_until_window_and_pointer_are_gone(owner: Actor, key: CloudKey) -> None:
    def destroy(*, gone: bool) -> None:
        lifecycle.destroy_unlinked_key(owner, key.pk, confirm_name=key.name, pointer_is_gone=gone)

    with pytest.raises(Conflict):
        destroy(gone=True)
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name)
    with pytest.raises(Conflict):
        destroy(gone=True)
    let_window_pass(key)
    with pytest.raises(ValidationFailed):
        destroy(gone=False)
    assert key.versions.get().material is not None
    destroy(gone=True)
    key.refresh_from_db()
    version = key.versions.get()
    assert key.state == "DESTROYED"
    assert version.material is None
    assert version.destroyed_at is not None
    assert AuditEvent.objects.filter(action=Action.CLOUD_KEY_DESTROY, target_id=str(key.pk)).exists()


def test_a_linked_key_is_destroyed_by_operation_only(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name)
    assert kinds(key) == ["cloud_key.schedule_deletion"]
    let_window_pass(key)
    with pytest.raises(Conflict):
        lifecycle.destroy_unlinked_key(owner, key.pk, confirm_name=key.name, pointer_is_gone=True)
    assert lifecycle.finish_due_deletions(SYSTEM) == 1
    assert lifecycle.finish_due_deletions(SYSTEM) == 0
    assert kinds(key)[-1] == "cloud_key.destroy"
    assert key.versions.get().material is not None


def test_nothing_is_done_to_a_destroyed_key(owner: Actor, key: CloudKey) -> None:
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name)
    let_window_pass(key)
    lifecycle.destroy_unlinked_key(owner, key.pk, confirm_name=key.name, pointer_is_gone=True)
    for act in (lifecycle.disable_cloud_key, lifecycle.block_cloud_key):
        with pytest.raises(Conflict):
            act(owner, key.pk, reason="")
    with pytest.raises(Conflict):
        lifecycle.enable_cloud_key(owner, key.pk)


def test_the_health_check_key_is_left_alone(owner: Actor, key_set: KeySet) -> None:
    health = key_set.cloud_keys.get(kind="HEALTH_CHECK")
    assert (health.exportable, health.deletable) == (False, False)
    assert health.permitted_uses == ["ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"]
    for act in (lifecycle.disable_cloud_key, lifecycle.block_cloud_key):
        with pytest.raises(Conflict):
            act(owner, health.pk, reason="")
    with pytest.raises(Conflict):
        lifecycle.schedule_deletion(owner, health.pk, confirm_name=health.name)


def test_retired_to_decrypt_only_rotates_no_more(owner: Actor, key_set: KeySet) -> None:
    every = {"kind": "every", "every": 30, "unit": "days"}
    key = new_key(owner, key_set, "old", rotation_schedule=every)
    assert key.next_rotation_at is not None
    lifecycle.retire_cloud_key(owner, key.pk)
    key.refresh_from_db()
    assert (key.permitted_uses, key.next_rotation_at) == (["DECRYPT"], None)
    update_key_set(owner, key_set.pk, {"rotation_schedule": every})
    key.refresh_from_db()
    assert key.next_rotation_at is None
    with pytest.raises(Conflict):
        lifecycle.retire_cloud_key(owner, key.pk)


@pytest.mark.parametrize(("then", "state"), [("disable", "DISABLED"), ("delete", "PENDING_DELETION")])
def test_expiry_does_what_was_said_once(owner: Actor, key_set: KeySet, then: str, state: str) -> None:
    key = new_key(owner, key_set, "short", expiration={"kind": "after", "days": 1, "then": then})
    assert lifecycle.expire_due_keys(SYSTEM) == 0
    CloudKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert lifecycle.expire_due_keys(SYSTEM) == 1
    assert lifecycle.expire_due_keys(SYSTEM) == 0
    key.refresh_from_db()
    assert key.state == state
    assert key.expired_at is not None
    assert AuditEvent.objects.filter(action=Action.CLOUD_KEY_EXPIRE).count() == 1
    confirmed = AuditEvent.objects.get(action=Action.DATA_PLANE_CONFIRM)
    of = Action.CLOUD_KEY_DISABLE if then == "disable" else Action.CLOUD_KEY_SCHEDULE_DELETION
    assert (confirmed.target_id, confirmed.detail["of"]) == (str(key.pk), of.value)


def test_expiry_cannot_delete_where_a_deletion_needs_approval(
    owner: Actor, key_set: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is disabled, which one alone may do, and its deletion is left to people."""
    key = new_key(owner, key_set, "short", expiration={"kind": "after", "days": 1, "then": "delete"})
    CloudKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    monkeypatch.setattr(Vault, "approvals_required", 1, raising=False)
    assert lifecycle.expire_due_keys(SYSTEM) == 1
    assert lifecycle.expire_due_keys(SYSTEM) == 0
    key.refresh_from_db()
    assert (key.state, key.delete_after) == ("DISABLED", None)
    event = AuditEvent.objects.get(action=Action.CLOUD_KEY_EXPIRE)
    assert event.detail == {"then": "delete", "deletion": "waits for approval"}


ACTS = {
    "disable": lambda actor, key: lifecycle.disable_cloud_key(actor, key, reason=""),
    "enable": lambda actor, key: lifecycle.enable_cloud_key(actor, key),
    "block": lambda actor, key: lifecycle.block_cloud_key(actor, key, reason=""),
    "unblock": lambda actor, key: lifecycle.unblock_cloud_key(actor, key),
    "retire": lambda actor, key: lifecycle.retire_cloud_key(actor, key),
    "schedule_deletion": lambda actor, key: lifecycle.schedule_deletion(
        actor, key, confirm_name="payments-prod"
    ),
    "cancel_deletion": lambda actor, key: lifecycle.cancel_deletion(actor, key),
    "destroy": lambda actor, key: lifecycle.destroy_unlinked_key(
        actor, key, confirm_name="payments-prod", pointer_is_gone=True
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_who_may_not_may_not(key: CloudKey, auditor: Actor, outsider: Actor, act: str) -> None:
    before = AuditEvent.objects.count()
    refusals: list[tuple[Actor, type[DomainError]]] = [
        (auditor, PermissionDenied),
        (outsider, NotFound),
        (Actor(), NotFound),
    ]
    for actor, error in refusals:
        with pytest.raises(error):
            ACTS[act](actor, key.pk)
    with pytest.raises(NotFound):
        ACTS[act](outsider, uuid4())
    assert AuditEvent.objects.count() == before
    assert CloudKey.objects.get(pk=key.pk).revision == 1


def test_a_stale_revision_changes_nothing(owner: Actor, key: CloudKey) -> None:
    with pytest.raises(StaleRevision):
        lifecycle.disable_cloud_key(owner, key.pk, reason="", expected_revision=7)
    key.refresh_from_db()
    assert key.state == "ENABLED"


def test_nothing_is_destroyed_or_expires_in_a_disabled_vault(owner: Actor, key_set: KeySet) -> None:
    """Enabling brings everything back, and meanwhile nobody could cancel."""
    leaving, ending = new_key(owner, key_set, "leaving"), new_key(owner, key_set, "ending")
    pretend_linked(leaving)
    lifecycle.schedule_deletion(owner, leaving.pk, confirm_name=leaving.name, window_days=7)
    let_window_pass(leaving)
    CloudKey.objects.filter(pk=ending.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    Vault.objects.filter(pk=leaving.vault_id).update(state="DISABLED")

    assert lifecycle.finish_due_deletions(SYSTEM) == 0
    assert lifecycle.expire_due_keys(SYSTEM) == 0
    Vault.objects.filter(pk=leaving.vault_id).update(state="ENABLED")
    assert lifecycle.finish_due_deletions(SYSTEM) == 1
    assert lifecycle.expire_due_keys(SYSTEM) == 1


def test_a_destruction_that_failed_is_not_begun_anew_at_once(owner: Actor, key: CloudKey) -> None:
    pretend_linked(key)
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name, window_days=7)
    let_window_pass(key)
    assert lifecycle.finish_due_deletions(SYSTEM) == 1
    begun = Operation.objects.filter(kind="cloud_key.destroy")
    begun.update(state="FAILED", finished_at=timezone.now())
    assert lifecycle.finish_due_deletions(SYSTEM) == 0
    begun.update(finished_at=timezone.now() - timedelta(hours=25))
    assert lifecycle.finish_due_deletions(SYSTEM) == 1


def test_other_work_on_one_key_does_not_hold_up_the_destruction_of_the_next(
    owner: Actor, key_set: KeySet
) -> None:
    for name in ("first", "second"):
        key = new_key(owner, key_set, name)
        pretend_linked(key)
        lifecycle.schedule_deletion(owner, key.pk, confirm_name=name, window_days=7)
    first, second = CloudKey.objects.order_by("name").filter(kind="USER")
    with change(owner):
        start_operation(owner, "cloud_key.link", first, input={"kms_key_id": "x"})
    CloudKey.objects.filter(pk=first.pk).update(delete_after=timezone.now() - timedelta(hours=2))
    CloudKey.objects.filter(pk=second.pk).update(delete_after=timezone.now() - timedelta(hours=1))
    assert lifecycle.finish_due_deletions(SYSTEM) == 1
    assert Operation.objects.get(kind="cloud_key.destroy").target_id == second.pk
