"""A CloudKey gets its KMS key in the simulated AWS."""

from __future__ import annotations

import json

import pytest

from cloudkeys.models import CloudKey, Operation
from cloudkeys.operations import cancel_operation, retry_operation, runner
from cloudkeys.services import cloud_keys, lifecycle
from tests.cloudkeys.cloud import World, add_key, add_link, connected, linked
from tests.cloudkeys.crashing import before_step, run_to_end
from tests.cloudkeys.world import ACCOUNT
from vault.actions import Action
from vault.models import AuditEvent


def test_a_cloud_key_gets_key_alias_policy_and_tags(world: World) -> None:
    connected(world)
    iam = world.aws.client("iam")
    iam.create_user(UserName="ada")
    ada = f"arn:aws:iam::{ACCOUNT}:user/ada"
    key = linked(
        world,
        "payments-prod",
        description="For payments",
        users=[ada],
        administrators=[ada],
        tags={"team": "pay"},
    )
    assert (key.state, key.pointer_state) == ("ENABLED", "LINKED")
    (found,) = world.aws.kms_keys()
    assert found["Arn"] == key.kms_key_arn
    assert found["KeyState"] == "Enabled"
    assert found["Description"] == "For payments"
    assert found["XksKeyConfiguration"]["Id"] == key.external_key_id
    assert world.aws.aliases() == {"alias/payments-prod": key.kms_key_id}
    kms = world.aws.client("kms")
    tags = {t["TagKey"]: t["TagValue"] for t in kms.list_resource_tags(KeyId=key.kms_key_id)["Tags"]}
    assert tags["team"] == "pay"
    assert tags["keystead:cloud-key"] == str(key.pk)
    policy = json.loads(kms.get_key_policy(KeyId=key.kms_key_id, PolicyName="default")["Policy"])
    assert policy["Statement"][0]["Principal"]["AWS"] == f"arn:aws:iam::{ACCOUNT}:root"
    assert any(statement["Principal"]["AWS"] in (ada, [ada]) for statement in policy["Statement"][1:])
    assert key.cloud_state["aliases"] == ["alias/payments-prod"]
    operation = world.operation("cloud_key.provision", key)
    assert [step["state"] for step in operation.steps] == ["DONE"] * 5
    assert operation.result["kms_key_arn"] == key.kms_key_arn
    assert AuditEvent.objects.filter(action=Action.OPERATION_FINISH, target_id=str(operation.pk)).count() == 1
    assert AuditEvent.objects.filter(action=Action.CLOUD_KEY_POINTER, target_id=str(key.pk)).exists()


def test_a_taken_alias_fails_with_cause_and_cure_and_a_retry_goes_on(world: World) -> None:
    connected(world)
    kms = world.aws.client("kms")
    foreign = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/payments-prod", TargetKeyId=foreign)
    operation = run_to_end(add_key(world, "payments-prod"))
    assert operation.state == "FAILED"
    assert operation.error["code"] == "alias_taken"
    assert operation.error["cure"]
    assert world.key is not None
    world.key.refresh_from_db()
    assert world.key.pointer_state == "FAILED"
    kms.delete_alias(AliasName="alias/payments-prod")
    run_to_end(retry_operation(world.actor, operation))
    operation.refresh_from_db()
    assert operation.state == "SUCCEEDED"
    assert len([k for k in world.aws.kms_keys() if k["Origin"] == "EXTERNAL_KEY_STORE"]) == 1
    world.key.refresh_from_db()
    assert world.key.pointer_state == "LINKED"


def test_a_key_waits_for_its_store(world: World) -> None:
    store_operation = add_link(world)
    operation = add_key(world, "payments-prod")
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    operation.refresh_from_db()
    assert operation.steps[1]["state"] == "WAITING"
    assert operation.error is None
    run_to_end(store_operation)
    assert run_to_end(operation).state == "SUCCEEDED"


def test_disabled_while_being_made_is_disabled_in_aws_too(world: World) -> None:
    connected(world)
    operation = add_key(world, "payments-prod")
    assert world.key is not None
    CloudKey.objects.filter(pk=world.key.pk).update(state="DISABLED")
    run_to_end(operation)
    assert world.aws.kms_keys()[0]["KeyState"] == "Disabled"
    assert Operation.objects.filter(kind="cloud_key.disable_pointer", state="SUCCEEDED").count() == 1


def test_a_cancel_undoes_key_and_alias_and_a_new_try_takes_the_same_key(world: World) -> None:
    connected(world)
    operation = add_key(world, "payments-prod")
    assert world.key is not None
    with before_step("cloud_key.provision", "create_alias", lambda: cancel_operation(world.actor, operation)):
        run_to_end(operation)
    assert operation.state == "CANCELLED"
    assert {step["name"]: step["state"] for step in operation.steps} == {
        "wait_workers": "DONE",
        "wait_store": "DONE",
        "create_key": "UNDONE",
        "create_alias": "UNDONE",
        "confirm": "RUNNING",
    }
    (found,) = world.aws.kms_keys()
    assert found["KeyState"] == "PendingDeletion"
    assert world.aws.aliases() == {}
    world.key.refresh_from_db()
    assert world.key.pointer_state == "NOT_LINKED"
    again = cloud_keys.link_cloud_key(world.actor, world.key.pk).operation
    assert again is not None
    assert run_to_end(again).state == "SUCCEEDED"
    (found,) = world.aws.kms_keys()
    assert found["KeyState"] == "Enabled"
    assert world.aws.aliases() == {"alias/payments-prod": found["KeyId"]}


def test_no_xks_worker_is_said_and_tried_again(world: World, xks_workers: object) -> None:
    connected(world)
    xks_workers.delete()  # type: ignore[attr-defined]
    operation = add_key(world, "payments-prod")
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    operation.refresh_from_db()
    assert operation.error["code"] == "no_xks_worker"
    assert operation.error["permanent"] is False
    assert operation.next_try_at is not None
    assert world.aws.kms_keys() == []


# --- adopting -----------------------------------------------------------------------------------------------------


def unlinked_key_and_store(world: World, name: str = "by-hand") -> tuple[CloudKey, str]:
    connected(world)
    assert world.link is not None
    world.link.linked = False
    world.link.save()
    key = cloud_keys.create_cloud_key(world.actor, world.key_set.pk, name=name, region="eu-west-1").key
    world.aws.serve(world.store)
    world.link.linked = True
    world.link.save()
    return key, world.link.custom_key_store_id


def test_a_key_made_in_the_console_is_adopted_after_aws_confirms_it(world: World) -> None:
    key, store_id = unlinked_key_and_store(world)
    kms = world.aws.client("kms")
    made = kms.create_key(
        Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=key.external_key_id
    )
    operation = cloud_keys.link_cloud_key(
        world.actor, key.pk, kms_key_id=made["KeyMetadata"]["Arn"]
    ).operation
    assert operation is not None
    assert run_to_end(operation).state == "SUCCEEDED"
    key.refresh_from_db()
    assert (key.pointer_state, key.kms_key_id) == ("LINKED", made["KeyMetadata"]["KeyId"])
    assert world.aws.aliases() == {"alias/by-hand": key.kms_key_id}


@pytest.mark.parametrize("wrong", ["origin", "unknown", "other_external_key"])
def test_a_key_that_is_not_this_one_is_refused(world: World, wrong: str) -> None:
    key, store_id = unlinked_key_and_store(world)
    kms = world.aws.client("kms")
    if wrong == "origin":
        given = kms.create_key()["KeyMetadata"]["KeyId"]
    elif wrong == "unknown":
        given = "00000000-0000-0000-0000-000000000000"
    else:
        given = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="key-1")[
            "KeyMetadata"
        ]["KeyId"]
    before = len(world.aws.kms_keys())
    operation = cloud_keys.link_cloud_key(world.actor, key.pk, kms_key_id=given).operation
    assert operation is not None
    assert run_to_end(operation).state == "FAILED"
    assert operation.error["code"] == ("pointer_missing" if wrong == "unknown" else "not_this_key")
    key.refresh_from_db()
    assert (key.pointer_state, key.kms_key_id) == ("NOT_LINKED", "")
    assert len(world.aws.kms_keys()) == before
    assert world.aws.aliases() == {}


def test_a_foreign_kms_key_of_the_external_key_is_never_taken_over_unasked(world: World) -> None:
    key, store_id = unlinked_key_and_store(world)
    kms = world.aws.client("kms")
    made = kms.create_key(
        Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=key.external_key_id
    )
    operation = cloud_keys.link_cloud_key(world.actor, key.pk).operation
    assert operation is not None
    run_to_end(operation)
    assert operation.state == "FAILED"
    assert operation.error["code"] == "external_key_in_use"
    assert made["KeyMetadata"]["KeyId"] in operation.error["cure"]


def test_scheduling_deletion_cancels_provisioning(world: World) -> None:
    connected(world)
    operation = add_key(world, "payments-prod")
    assert world.key is not None
    lifecycle.schedule_deletion(world.actor, world.key.pk, confirm_name="payments-prod", window_days=7)
    run_to_end(operation)
    assert operation.state == "CANCELLED"
    assert world.aws.kms_keys() == []
    assert world.aws.aliases() == {}
