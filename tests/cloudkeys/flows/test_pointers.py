"""What our words do to the KMS key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from cloudkeys.flows import data_plane
from cloudkeys.flows.pointers import GONE_POLL_S
from cloudkeys.models import CloudKey, KeyVersion, Operation
from cloudkeys.operations import retry_operation, runner
from cloudkeys.providers import aws_connection
from cloudkeys.services import cloud_keys, lifecycle, versions
from cloudkeys.simulators.aws import kms_keys
from cloudkeys.simulators.aws.faults import Fault
from tests.cloudkeys.cloud import World, connected, linked
from tests.cloudkeys.crashing import run_to_end
from vault.models import GenerationChange


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK tries once, and the data plane is asked once: what is tested is what the engine does then."""
    monkeypatch.setattr(aws_connection, "ATTEMPTS", 1)
    monkeypatch.setattr(data_plane, "WAIT_S", 0.0)


@pytest.fixture
def key(world: World) -> CloudKey:
    return linked(connected(world), "payments-prod")


def kms_state(world: World) -> str:
    return str(world.aws.kms_keys()[0]["KeyState"])


def disable(world: World, key: CloudKey) -> Operation:
    operation = lifecycle.disable_cloud_key(world.actor, key.pk, reason="test").operation
    assert operation is not None
    return operation


def test_disable_holds_here_while_aws_is_out_of_reach(world: World, key: CloudKey) -> None:
    world.aws.server.sim.faults.add(Fault("drop", "kms", "DisableKey"))
    operation = disable(world, key)
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    operation.refresh_from_db()
    assert operation.error["code"] == "unreachable"
    key.refresh_from_db()
    assert key.state == "DISABLED"
    assert kms_state(world) == "Enabled"
    run_to_end(operation)
    assert kms_state(world) == "Disabled"
    key.refresh_from_db()
    assert key.cloud_state["state"] == "Disabled"


def test_enable_asks_aws_first_and_touches_the_data_plane(world: World, key: CloudKey) -> None:
    run_to_end(disable(world, key))
    before = GenerationChange.objects.filter(object_id=key.pk).count()
    world.aws.server.sim.faults.add(Fault("throttle", "kms", "EnableKey"))
    operation = lifecycle.enable_cloud_key(world.actor, key.pk).operation
    assert operation is not None
    runner.run_operation(operation.pk)
    key.refresh_from_db()
    assert key.state == "DISABLED"
    run_to_end(operation)
    key.refresh_from_db()
    assert (key.state, kms_state(world)) == ("ENABLED", "Enabled")
    assert GenerationChange.objects.filter(object_id=key.pk).count() == before + 1


def test_a_disable_overtakes_an_enable_on_its_way(world: World, key: CloudKey) -> None:
    run_to_end(disable(world, key))
    enable = lifecycle.enable_cloud_key(world.actor, key.pk).operation
    assert enable is not None
    world.aws.server.sim.faults.add(Fault("throttle", "kms", "EnableKey"))
    runner.run_operation(enable.pk)
    lifecycle.disable_cloud_key(world.actor, key.pk, reason="no")
    run_to_end(enable)
    key.refresh_from_db()
    assert enable.state == "CANCELLED"
    assert (key.state, kms_state(world)) == ("DISABLED", "Disabled")


def test_deletion_waits_for_aws_before_anything_is_destroyed(world: World, key: CloudKey) -> None:
    operation = lifecycle.schedule_deletion(
        world.actor, key.pk, confirm_name="payments-prod", window_days=7
    ).operation
    assert operation is not None
    run_to_end(operation)
    assert kms_state(world) == "PendingDeletion"
    key.refresh_from_db()
    (found,) = world.aws.kms_keys()
    assert key.delete_after is not None
    assert key.delete_after >= found["DeletionDate"]
    # Our window is over, AWS's is not: nothing is destroyed.
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(seconds=1))
    assert lifecycle.finish_due_deletions(world.actor) == 1
    destroy = world.operation("cloud_key.destroy", key)
    assert runner.run_operation(destroy.pk) is runner.Outcome.WAITING
    destroy.refresh_from_db()
    assert destroy.next_try_at is not None
    assert destroy.next_try_at > timezone.now() + timedelta(seconds=GONE_POLL_S - 60)
    assert KeyVersion.objects.filter(cloud_key=key, material=None).count() == 0
    # AWS's is over too.
    sim = world.aws.server.sim
    sim.state.advance_clock(8 * 86400.0)
    kms_keys.destroy_due_keys(sim)
    assert run_to_end(destroy).state == "SUCCEEDED"
    key.refresh_from_db()
    assert (key.state, key.pointer_state) == ("DESTROYED", "GONE")
    assert KeyVersion.objects.filter(cloud_key=key).exclude(material=None).count() == 0


def test_a_deletion_cancelled_in_aws_stops_the_destruction(world: World, key: CloudKey) -> None:
    operation = lifecycle.schedule_deletion(
        world.actor, key.pk, confirm_name="payments-prod", window_days=7
    ).operation
    assert operation is not None
    run_to_end(operation)
    world.aws.client("kms").cancel_key_deletion(KeyId=key.kms_key_id)
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(seconds=1))
    lifecycle.finish_due_deletions(world.actor)
    destroy = run_to_end(world.operation("cloud_key.destroy", key))
    assert destroy.state == "FAILED"
    assert destroy.error["code"] == "pointer_alive"
    assert KeyVersion.objects.filter(cloud_key=key, material=None).count() == 0


def test_cancelling_a_deletion_leaves_both_disabled(world: World, key: CloudKey) -> None:
    scheduled = lifecycle.schedule_deletion(
        world.actor, key.pk, confirm_name="payments-prod", window_days=7
    ).operation
    assert scheduled is not None
    run_to_end(scheduled)
    operation = lifecycle.cancel_deletion(world.actor, key.pk).operation
    assert operation is not None
    assert run_to_end(operation).state == "SUCCEEDED"
    key.refresh_from_db()
    assert (key.state, kms_state(world)) == ("DISABLED", "Disabled")


def test_a_new_name_is_a_new_alias_and_foreign_aliases_stay(world: World, key: CloudKey) -> None:
    kms = world.aws.client("kms")
    kms.create_alias(AliasName="alias/somebody-elses", TargetKeyId=key.kms_key_id)
    operation = cloud_keys.update_cloud_key(world.actor, key.pk, {"name": "payments-new"}).operation
    assert operation is not None
    assert run_to_end(operation).state == "SUCCEEDED"
    assert set(world.aws.aliases()) == {"alias/payments-new", "alias/somebody-elses"}


def test_refresh_tells_what_happened_behind_our_back_and_changes_nothing(world: World, key: CloudKey) -> None:
    kms = world.aws.client("kms")
    kms.disable_key(KeyId=key.kms_key_id)
    operation = run_to_end(cloud_keys.refresh_cloud_key(world.actor, key.pk))
    assert operation.result["state"] == "Disabled"
    revision = key.revision
    key.refresh_from_db()
    assert (key.state, key.cloud_state["state"], key.revision) == ("ENABLED", "Disabled", revision)


def test_a_pointer_that_is_gone_is_said_to_be(world: World, key: CloudKey) -> None:
    CloudKey.objects.filter(pk=key.pk).update(kms_key_id="00000000-0000-0000-0000-000000000000")
    run_to_end(cloud_keys.refresh_cloud_key(world.actor, key.pk))
    key.refresh_from_db()
    assert key.pointer_state == "GONE"


def test_rotation_activates_the_version_after_every_worker_knows_it(
    world: World, key: CloudKey, xks_workers: object
) -> None:
    workers = type(xks_workers).objects  # type: ignore[attr-defined]
    workers.update(applied_generation=0)
    begun = versions.rotate_cloud_key(world.actor, key.pk)
    assert runner.run_operation(begun.operation.pk) is runner.Outcome.WAITING
    key.refresh_from_db()
    assert key.current_version == 1
    begun.operation.refresh_from_db()
    assert any("node-a pid 4711" in step["detail"] for step in begun.operation.steps)
    workers.update(applied_generation=2**62)
    assert run_to_end(begun.operation).state == "SUCCEEDED"
    key.refresh_from_db()
    assert key.current_version == 2


def test_a_stale_retry_does_not_bring_back_what_was_given_up(world: World, key: CloudKey) -> None:
    """A failed enable, retried after the key's deletion was scheduled, must not enable anything."""
    run_to_end(disable(world, key))
    enable = lifecycle.enable_cloud_key(world.actor, key.pk).operation
    assert enable is not None
    Operation.objects.filter(pk=enable.pk).update(state="FAILED")
    enable.refresh_from_db()
    scheduled = lifecycle.schedule_deletion(world.actor, key.pk, confirm_name="payments-prod").operation
    assert scheduled is not None
    run_to_end(scheduled)
    retry_operation(world.actor, enable)
    assert run_to_end(enable).state == "FAILED"
    assert enable.error["code"] == "state_changed"
    key.refresh_from_db()
    assert (key.state, kms_state(world)) == ("PENDING_DELETION", "PendingDeletion")
