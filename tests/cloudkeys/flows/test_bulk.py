"""Many CloudKeys at once, with the rights of who asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.operations import cancel_operation, retry_operation, runner, start_operation
from tests.cloudkeys.crashing import before_step, run_to_end
from tests.cloudkeys.world import new_key
from vault.actors import Actor
from vault.changes import change
from vault.errors import PermissionDenied
from vault.models import ApiToken, AuditEvent, Membership, Node, Role, Vault, WorkerProcess


def bulk(actor: Actor, vault: Vault, action: str, ids: list[Any], **params: Any) -> Operation:
    given = {"action": action, "ids": [str(pk) for pk in ids], "params": params}
    with change(actor):
        return start_operation(actor, "cloud_keys.bulk", vault, input=given)


@pytest.fixture
def keys(owner: Actor, key_set: KeySet) -> list[CloudKey]:
    return [new_key(owner, key_set, name=f"key-{number}") for number in range(3)]


def test_each_key_is_done_and_audited_as_the_person(
    owner: Actor, payments: Vault, keys: list[CloudKey]
) -> None:
    operation = run_to_end(bulk(owner, payments, "disable", [key.pk for key in keys], reason="audit"))
    assert operation.state == "SUCCEEDED"
    assert [done["id"] for done in operation.result["done"]] == [str(key.pk) for key in keys]
    assert set(CloudKey.objects.filter(pk__in=[k.pk for k in keys]).values_list("state", flat=True)) == {
        "DISABLED"
    }
    events = AuditEvent.objects.filter(action="cloudkeys:cloud_key:disable")
    assert set(events.values_list("actor_name", "via")) == {("owner@example.com", "worker")}


@pytest.mark.parametrize("action", ["disable", "block", "schedule_deletion"])
def test_how_far_the_data_plane_followed_is_recorded_for_each_key(
    owner: Actor, payments: Vault, keys: list[CloudKey], action: str
) -> None:
    params = {"confirm": {str(key.pk): key.name for key in keys}} if action == "schedule_deletion" else {}
    node = Node.objects.create(name="node-a", started_at=timezone.now(), last_seen_at=timezone.now())
    WorkerProcess.objects.create(
        node=node, instance="a", pid=7, last_seen_at=timezone.now(), state="SERVING", applied_generation=10**9
    )
    operation = run_to_end(bulk(owner, payments, action, [key.pk for key in keys], **params))
    assert operation.result["failed"] == []
    assert "unconfirmed" not in operation.memo
    events = AuditEvent.objects.filter(action="vault:data_plane:confirm").order_by("sequence")
    assert [event.target_id for event in events] == [str(key.pk) for key in keys]
    for event in events:
        assert event.actor_name == "owner@example.com"
        assert (event.outcome, event.detail["confirmed"], event.detail["counted"]) == ("SUCCESS", 1, 1)
        closed = AuditEvent.objects.get(action=event.detail["of"], target_id=event.target_id)
        assert event.generation is not None
        assert closed.generation is not None
        assert event.generation >= closed.generation


def test_what_opens_keys_is_not_waited_for(owner: Actor, payments: Vault, keys: list[CloudKey]) -> None:
    run_to_end(bulk(owner, payments, "disable", [keys[0].pk]))
    before = AuditEvent.objects.filter(action="vault:data_plane:confirm").count()
    run_to_end(bulk(owner, payments, "enable", [keys[0].pk]))
    assert (before, AuditEvent.objects.filter(action="vault:data_plane:confirm").count()) == (1, 1)


def test_one_refusal_stops_nothing_and_changes_nothing(
    owner: Actor, payments: Vault, keys: list[CloudKey]
) -> None:
    ids = [keys[0].pk, uuid4(), keys[2].pk]
    operation = run_to_end(bulk(owner, payments, "disable", ids))
    assert operation.state == "SUCCEEDED"
    assert len(operation.result["done"]) == 2
    (failed,) = operation.result["failed"]
    assert (failed["row"], failed["code"]) == (1, "not_found")


def test_rights_are_those_of_the_moment(owner: Actor, payments: Vault, keys: list[CloudKey]) -> None:
    operation = bulk(owner, payments, "disable", [keys[0].pk])
    Membership.objects.filter(user=owner.user).update(role=Role.AUDITOR)
    run_to_end(operation)
    assert operation.result["done"] == []
    assert operation.result["failed"][0]["code"] == "permission_denied"
    keys[0].refresh_from_db()
    assert keys[0].state == "ENABLED"


def test_a_token_keeps_its_ceiling(owner: Actor, payments: Vault, keys: list[CloudKey]) -> None:
    token = ApiToken.objects.create(
        user=owner.user, vault=payments, role=Role.AUDITOR, name="ci", digest="x" * 64
    )
    actor = Actor(user=owner.user, token=token, via="api")
    operation = run_to_end(bulk(actor, payments, "disable", [keys[0].pk]))
    assert operation.result["failed"][0]["code"] == "permission_denied"


@pytest.mark.parametrize("how", ["inactive", "deleted", "token revoked", "token expired"])
def test_work_of_somebody_who_is_gone_does_nothing(
    owner: Actor, payments: Vault, keys: list[CloudKey], how: str
) -> None:
    assert owner.user is not None
    actor = owner
    if how.startswith("token"):
        token = ApiToken.objects.create(user=owner.user, name="ci", digest="x" * 64)
        actor = Actor(user=owner.user, token=token, via="api")
    operation = bulk(actor, payments, "disable", [keys[0].pk])
    match how:
        case "inactive":
            owner.user.is_active = False
            owner.user.save()
        case "deleted":
            Operation.objects.filter(pk=operation.pk).update(requested_by=None)
        case "token revoked":
            ApiToken.objects.update(revoked_at=timezone.now())
        case _:
            ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    run_to_end(operation)
    assert operation.state == "FAILED"
    assert operation.error["code"] == "requester_gone"
    keys[0].refresh_from_db()
    assert keys[0].state == "ENABLED"


def test_nobody_retries_in_another_ones_name(
    owner: Actor, colleague: Actor, payments: Vault, keys: list[CloudKey]
) -> None:
    operation = bulk(owner, payments, "nonsense", [keys[0].pk])
    run_to_end(operation)
    assert operation.error["code"] == "unknown_action"
    with pytest.raises(PermissionDenied, match="in the name of"):
        retry_operation(colleague, operation)


def test_a_cancel_stops_between_two_keys(owner: Actor, payments: Vault, keys: list[CloudKey]) -> None:
    operation = bulk(owner, payments, "disable", [key.pk for key in keys])
    with before_step("cloud_keys.bulk", "items", lambda: cancel_operation(owner, operation)):
        run_to_end(operation)
    assert operation.state == "CANCELLED"
    assert CloudKey.objects.filter(pk__in=[k.pk for k in keys], state="DISABLED").count() == 0


def test_rows_of_a_file_become_keys_and_wrong_ones_say_why(owner: Actor, key_set: KeySet) -> None:
    rows = [
        {"name": "one", "region": "eu-west-1"},
        {"name": "bad name", "region": "eu-west-1"},
        {"name": "two", "region": "nowhere-1"},
        {"name": "three", "region": "eu-west-1", "surprise": 1},
        {"name": "four", "region": "eu-west-1", "tags": {"a": "b"}},
    ]
    with change(owner):
        operation = start_operation(owner, "cloud_keys.csv_create", key_set, input={"rows": rows})
    run_to_end(operation)
    assert operation.state == "SUCCEEDED", operation.error
    assert [done["name"] for done in operation.result["done"]] == ["one", "four"]
    assert [failed["row"] for failed in operation.result["failed"]] == [1, 2, 3]
    assert all(failed["message"] and failed["cure"] for failed in operation.result["failed"])
    assert runner.due_operations() == []
