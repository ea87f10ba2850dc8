"""Every flow, killed after every external call and every commit, and taken up by another worker.

Afterwards there is exactly one of everything, nothing orphaned, and the Operation tells the truth. The AWS is the
bundled simulator behind the real SDK; the points are found by tests.cloudkeys.crashing, not listed here.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import Count

from cloudkeys.models import AwsStoreLink, CspAccount, KeySet, Operation
from cloudkeys.operations import cancel_operation, runner, start_operation
from cloudkeys.services import accounts, cloud_keys, lifecycle, stores
from tests.cloudkeys.cloud import (
    REGION,
    Aws,
    World,
    add_key,
    add_link,
    connected,
    copy_of,
    linked,
    new_world,
    simulated_account,
)
from tests.cloudkeys.crashing import every_crash_point, held_at, run_to_end
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.keys import unseal
from vault.models import AuditEvent, Vault

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.usefixtures("crash_stride"),
]


@pytest.fixture
def account(owner: Actor, payments: Vault, aws: Aws) -> CspAccount:
    return simulated_account(owner, payments, aws)


@pytest.fixture
def shared(owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any) -> World:
    """A connected store on which every run hangs a key of its own."""
    return connected(new_world(owner, payments, aws, account, "shared"))


def assert_truth(operation: Operation, state: str = "SUCCEEDED") -> None:
    """The row says what happened, once: state, steps, end, one audit event."""
    assert operation.state == state, (operation.error, operation.steps)
    assert operation.lease_owner == ""
    assert operation.lease_until is None
    assert operation.finished_at is not None
    if state == "SUCCEEDED":
        assert {step["state"] for step in operation.steps} == {"DONE"}
        assert operation.error is None
    finished = AuditEvent.objects.filter(action=Action.OPERATION_FINISH, target_id=str(operation.pk))
    assert finished.count() == 1


def assert_no_doubles() -> None:
    """No CloudKey and no link refers to what another one refers to."""
    doubled = AwsStoreLink.objects.exclude(custom_key_store_id="").values("custom_key_store_id")
    assert not doubled.annotate(n=Count("pk")).filter(n__gt=1).exists()


def test_creating_a_store(
    owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any
) -> None:
    def scenario(number: int) -> World:
        return new_world(owner, payments, aws, account, f"pay-{number}")

    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation)
        assert world.link is not None
        world.link.refresh_from_db()
        mine = [
            s
            for s in aws.key_stores()
            if s["XksProxyConfiguration"]["UriPath"].startswith(world.store.path_prefix + "/")
        ]
        assert [s["CustomKeyStoreId"] for s in mine] == [world.link.custom_key_store_id], where
        assert mine[0]["ConnectionState"] == "CONNECTED"
        assert (world.link.state, world.link.linked) == ("CONNECTED", True)
        assert_no_doubles()

    points = every_crash_point(scenario, add_link, check)
    assert {"aws CreateCustomKeyStore", "aws ConnectCustomKeyStore", "commit"} <= set(points)


def test_creating_a_store_that_cannot_connect_leaves_nothing(
    owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any
) -> None:
    """AWS accepts the store and then refuses to connect it: killed anywhere on the way back, all is undone."""

    def scenario(number: int) -> World:
        world = new_world(owner, payments, aws, account, f"pay-{number}")
        health = 0

        def refuse_later(seen: Any) -> Any:
            nonlocal health
            if not seen.path.endswith("/health"):
                return None
            health += 1
            # Our own check and AWS's at creation pass; AWS's at connecting does not.
            return None if health <= 2 else (401, {"errorName": "AuthenticationFailedException"})

        aws.proxy.override = refuse_later
        return world

    def check(world: World, operation: Operation, where: str) -> None:
        assert world.link is not None
        world.link.refresh_from_db()
        if operation.state == "FAILED":
            assert_truth(operation, "FAILED")
            assert operation.error["cause"]
            assert world.link.state == "FAILED"
        else:
            # A crash between AWS's answer and our note makes it ask the proxy in another order; never a half thing.
            assert_truth(operation)
        mine = [
            s
            for s in aws.key_stores()
            if s["XksProxyConfiguration"]["UriPath"].startswith(world.store.path_prefix + "/")
        ]
        assert len(mine) == (0 if operation.state == "FAILED" else 1), where
        assert world.link.custom_key_store_id == (mine[0]["CustomKeyStoreId"] if mine else ""), where

    points = every_crash_point(scenario, add_link, check)
    assert "aws DeleteCustomKeyStore" in points


def test_creating_a_key(shared: World, aws: Aws) -> None:
    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation)
        assert world.key is not None
        world.key.refresh_from_db()
        mine = [
            k
            for k in aws.kms_keys()
            if k.get("XksKeyConfiguration", {}).get("Id") == world.key.external_key_id
        ]
        assert [(k["KeyId"], k["KeyState"]) for k in mine] == [(world.key.kms_key_id, "Enabled")], where
        assert aws.aliases()[world.key.alias] == world.key.kms_key_id
        assert list(aws.aliases().values()).count(world.key.kms_key_id) == 1
        assert (world.key.state, world.key.pointer_state) == ("ENABLED", "LINKED")
        assert world.key.cloud_state["managed_alias"] == world.key.alias

    numbers = iter(range(1000))
    points = every_crash_point(
        lambda number: copy_of(shared), lambda world: add_key(world, f"key-{next(numbers)}"), check
    )
    assert {"aws CreateKey", "aws CreateAlias", "aws DescribeKey", "commit"} <= set(points)
    # One KMS key for each CloudKey, none besides: nothing is orphaned anywhere.
    made = next(numbers)
    assert made > 1
    assert len(aws.kms_keys()) == len(aws.aliases()) == made


def test_cancelling_a_key_that_is_half_made(shared: World, aws: Aws) -> None:
    """A cancel that comes after the alias was made, killed anywhere while it is undone."""
    numbers = iter(range(1000))

    def begin(world: World) -> Operation:
        operation = add_key(world, f"key-{next(numbers)}")
        with held_at("cloud_key.provision", "confirm"):
            runner.run_operation(operation.pk)
        return cancel_operation(world.actor, operation)

    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation, "CANCELLED")
        assert world.key is not None
        world.key.refresh_from_db()
        mine = [
            k
            for k in aws.kms_keys()
            if k.get("XksKeyConfiguration", {}).get("Id") == world.key.external_key_id
        ]
        assert [k["KeyState"] for k in mine] == ["PendingDeletion"], where
        assert world.key.alias not in aws.aliases()
        assert world.key.pointer_state == "NOT_LINKED"

    points = every_crash_point(lambda number: copy_of(shared), begin, check)
    assert {"aws ScheduleKeyDeletion", "aws DeleteAlias"} <= set(points)


def test_disabling_and_enabling(shared: World, aws: Aws) -> None:
    numbers = iter(range(1000))

    def scenario(number: int) -> World:
        world = copy_of(shared)
        linked(world, f"key-{next(numbers)}")
        return world

    def disable(world: World) -> Operation:
        assert world.key is not None
        operation = lifecycle.disable_cloud_key(world.actor, world.key.pk, reason="test").operation
        assert operation is not None
        return operation

    def enable(world: World) -> Operation:
        run_to_end(disable(world))
        assert world.key is not None
        operation = lifecycle.enable_cloud_key(world.actor, world.key.pk, reason="test").operation
        assert operation is not None
        return operation

    def check_state(state: str, kms_state: str) -> Any:
        def check(world: World, operation: Operation, where: str) -> None:
            assert_truth(operation)
            assert world.key is not None
            world.key.refresh_from_db()
            assert world.key.state == state
            (mine,) = [k for k in aws.kms_keys() if k["KeyId"] == world.key.kms_key_id]
            assert mine["KeyState"] == kms_state, where

        return check

    assert "aws DisableKey" in every_crash_point(scenario, disable, check_state("DISABLED", "Disabled"))
    assert "aws EnableKey" in every_crash_point(scenario, enable, check_state("ENABLED", "Enabled"))


def test_scheduling_and_cancelling_deletion(shared: World, aws: Aws) -> None:
    numbers = iter(range(1000))

    def scenario(number: int) -> World:
        world = copy_of(shared)
        linked(world, f"key-{next(numbers)}")
        return world

    def schedule(world: World) -> Operation:
        assert world.key is not None
        operation = lifecycle.schedule_deletion(
            world.actor, world.key.pk, confirm_name=world.key.name, window_days=7
        ).operation
        assert operation is not None
        return operation

    def cancel(world: World) -> Operation:
        run_to_end(schedule(world))
        assert world.key is not None
        operation = lifecycle.cancel_deletion(world.actor, world.key.pk).operation
        assert operation is not None
        return operation

    def check_state(state: str, kms_state: str) -> Any:
        def check(world: World, operation: Operation, where: str) -> None:
            assert_truth(operation)
            assert world.key is not None
            world.key.refresh_from_db()
            assert world.key.state == state
            (mine,) = [k for k in aws.kms_keys() if k["KeyId"] == world.key.kms_key_id]
            assert mine["KeyState"] == kms_state, where

        return check

    points = every_crash_point(scenario, schedule, check_state("PENDING_DELETION", "PendingDeletion"))
    assert "aws ScheduleKeyDeletion" in points
    points = every_crash_point(scenario, cancel, check_state("DISABLED", "Disabled"))
    assert "aws CancelKeyDeletion" in points


def test_updating_a_key(shared: World, aws: Aws) -> None:
    numbers = iter(range(1000))

    def scenario(number: int) -> World:
        world = copy_of(shared)
        linked(world, f"key-{next(numbers)}", tags={"a": "1", "b": "2"})
        return world

    def update(world: World) -> Operation:
        assert world.key is not None
        changes = {"name": f"renamed-{world.key.name}", "description": "new", "tags": {"a": "3"}}
        operation = cloud_keys.update_cloud_key(world.actor, world.key.pk, changes).operation
        assert operation is not None
        return operation

    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation)
        assert world.key is not None
        world.key.refresh_from_db()
        mine = [alias for alias, key_id in aws.aliases().items() if key_id == world.key.kms_key_id]
        assert mine == [world.key.alias], where
        kms = aws.client("kms")
        tags = {
            t["TagKey"]: t["TagValue"] for t in kms.list_resource_tags(KeyId=world.key.kms_key_id)["Tags"]
        }
        assert (tags["a"], "b" in tags) == ("3", False)
        assert kms.describe_key(KeyId=world.key.kms_key_id)["KeyMetadata"]["Description"] == "new"

    points = every_crash_point(scenario, update, check)
    assert {"aws PutKeyPolicy", "aws TagResource", "aws UntagResource", "aws DeleteAlias"} <= set(points)


def test_disconnecting_and_deleting_a_store(
    owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any
) -> None:
    def scenario(number: int) -> World:
        return connected(new_world(owner, payments, aws, account, f"pay-{number}"))

    def delete(world: World) -> Operation:
        assert world.link is not None
        operation = stores.delete_store_link(world.actor, world.link.pk)
        assert operation is not None
        return operation

    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation)
        assert aws.key_stores() == [], where
        assert world.link is not None
        world.link.refresh_from_db()
        assert (world.link.state, world.link.linked) == ("GONE", False)

    points = every_crash_point(scenario, delete, check)
    assert {"aws DisconnectCustomKeyStore", "aws DeleteCustomKeyStore"} <= set(points)


def test_rotating_a_credential(owner: Actor, payments: Vault, aws: Aws) -> None:
    """Killed anywhere: a working credential at every moment, never more than two, and only the new one at the end."""

    def scenario(number: int) -> CspAccount:
        return simulated_account(owner, payments, aws, name=f"account-{number}", user=f"keystead-{number}")

    def begin(account: CspAccount) -> Operation:
        return accounts.rotate_csp_credential(owner, account.pk)

    def grace_is_over(account: CspAccount) -> None:
        CspAccount.objects.filter(pk=account.pk).exclude(retire_after=None).update(
            retire_after=account.created_at
        )

    def check(account: CspAccount, operation: Operation, where: str) -> None:
        assert_truth(operation)
        user = account.name.replace("account", "keystead")
        old = account.access_key_id
        account.refresh_from_db()
        keys = aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
        assert [(k["AccessKeyId"], k["Status"]) for k in keys] == [(account.access_key_id, "Active")], where
        assert account.access_key_id != old
        assert (account.rotation_state, account.retiring_access_key_id, account.pending_access_key_id) == (
            "IDLE",
            "",
            "",
        )
        assert account.pending_secret_access_key is None
        secret = unseal(account, "secret_access_key").reveal_text()
        sts = aws.client("sts", credentials=(account.access_key_id, secret))
        assert sts.get_caller_identity()["Arn"].endswith(f":user/{user}")

    points = every_crash_point(
        scenario, begin, check, pass_time=grace_is_over, between=working_credential(aws)
    )
    assert {"aws CreateAccessKey", "aws UpdateAccessKey"} <= set(points)


def working_credential(aws: Aws) -> Any:
    """At the moment of the crash the row's own credential signs in."""

    def check(account: CspAccount) -> None:
        row = CspAccount.objects.get(pk=account.pk)
        secret = unseal(row, "secret_access_key").reveal_text()
        aws.client("sts", credentials=(row.access_key_id, secret)).get_caller_identity()
        user = row.name.replace("account", "keystead")
        assert len(aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]) <= 2

    return check


@pytest.mark.long  # what it bundles is tried crash by crash above
def test_bulk_creates_each_row_once(shared: World, aws: Aws) -> None:
    numbers = iter(range(1000))

    def begin(world: World) -> Operation:
        number = next(numbers)
        rows = [{"name": f"bulk-{number}-{i}", "region": REGION} for i in range(3)]
        with change(world.actor):
            return start_operation(
                world.actor,
                "cloud_keys.csv_create",
                KeySet.objects.get(pk=world.key_set.pk),
                input={"rows": rows},
            )

    def check(world: World, operation: Operation, where: str) -> None:
        assert_truth(operation)
        names = [row["name"] for row in operation.input["rows"]]
        assert [done["name"] for done in operation.result["done"]] == names, where
        assert operation.result["failed"] == []
        made = world.key_set.cloud_keys.filter(name__in=names)
        assert made.count() == 3
        assert {str(key.pk) for key in made} == {done["id"] for done in operation.result["done"]}

    every_crash_point(lambda number: copy_of(shared), begin, check)
