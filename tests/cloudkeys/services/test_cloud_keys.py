"""Creating and changing CloudKeys."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, Operation
from cloudkeys.services import cloud_keys, key_sets, stores
from tests.cloudkeys.world import ADA, APP, new_key, new_key_set, pretend_linked, store_of
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.keys import unseal
from vault.models import AuditEvent, Vault


@pytest.fixture
def linked_set(owner: Actor, payments: Vault, account: CspAccount) -> KeySet:
    made = new_key_set(owner, payments, account, name="linked", links=[stores.LinkRequest("eu-west-1")])
    AwsStoreLink.objects.update(state="CONNECTED", custom_key_store_id="cks-1")
    Operation.objects.all().delete()
    return made.key_set


def test_an_unlinked_key_is_enabled_and_tells_the_next_step(owner: Actor, key_set: KeySet) -> None:
    made = cloud_keys.create_cloud_key(
        owner, key_set.pk, name="payments-prod", region="eu-west-1", users=[APP]
    )
    key = made.key
    assert (key.state, key.pointer_state, made.operation) == ("ENABLED", "NOT_LINKED", None)
    assert made.generation > 0
    version = key.versions.get()
    assert len(unseal(version, "material").reveal()) == 32
    assert version.activated_at is not None
    step = cloud_keys.create_key_step(key)
    assert f"--xks-key-id {key.external_key_id}" in step["command"]
    assert "--origin EXTERNAL_KEY_STORE" in step["command"]
    event = AuditEvent.objects.get(action=Action.CLOUD_KEY_CREATE, target_id=str(key.pk))
    assert event.after is not None
    assert event.after["users"] == [APP]


def test_in_a_linked_store_the_pointer_follows(owner: Actor, linked_set: KeySet) -> None:
    made = cloud_keys.create_cloud_key(owner, linked_set.pk, name="k", region="eu-west-1")
    assert (made.key.state, made.key.pointer_state) == ("ENABLED", "PENDING")
    assert made.operation is not None
    assert made.operation.kind == "cloud_key.provision"
    elsewhere = cloud_keys.create_cloud_key(owner, linked_set.pk, name="k", region="eu-central-1")
    assert (elsewhere.key.pointer_state, elsewhere.operation) == ("NOT_LINKED", None)


def test_a_failed_store_takes_no_new_keys(owner: Actor, linked_set: KeySet) -> None:
    AwsStoreLink.objects.update(state="FAILED", connection_error_code="INVALID_CREDENTIALS")
    with pytest.raises(Conflict, match="INVALID_CREDENTIALS"):
        new_key(owner, linked_set)
    assert not CloudKey.objects.filter(kind="USER").exists()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"name": "not an alias"}, "name"),
        ({"name": "aws/s3"}, "name"),
        ({"name": ""}, "name"),
        ({"region": "mars-1"}, "region"),
        ({"external_key_id": "a b"}, "external_key_id"),
        ({"external_key_id": "k" * 200}, "external_key_id"),
        ({"permitted_uses": ["SIGN"]}, "permitted_uses[0]"),
        ({"administrators": ["*"]}, "administrators[0]"),
        ({"users": [ADA, ADA.replace("1111", "9999")]}, "users[1]"),
        ({"tags": {"aws:x": "y"}}, "tags.aws:x"),
        ({"description": "x" * 1001}, "description"),
        ({"rotation_schedule": {"kind": "every"}}, "rotation_schedule.unit"),
        ({"expiration": {"kind": "after", "days": 0}}, "expiration.days"),
    ],
)
def test_bad_input_names_its_field_and_makes_nothing(
    owner: Actor, key_set: KeySet, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        cloud_keys.create_cloud_key(owner, key_set.pk, **{"name": "k", "region": "eu-west-1", **more})
    assert caught.value.field == field
    assert not CloudKey.objects.filter(kind="USER").exists()


def test_alias_and_id_are_free_or_refused(
    owner: Actor, payments: Vault, account: CspAccount, key_set: KeySet
) -> None:
    first = new_key(owner, key_set, external_key_id="chosen-1")
    other_set = new_key_set(owner, payments, account, name="other").key_set
    for target in (key_set, other_set):
        with pytest.raises(ValidationFailed) as caught:
            new_key(owner, target)
        assert caught.value.field == "name"
    with pytest.raises(ValidationFailed) as caught:
        new_key(owner, key_set, "another", external_key_id="chosen-1")
    assert caught.value.field == "external_key_id"
    assert new_key(owner, other_set, "another", external_key_id="chosen-1").pk != first.pk
    # Once destroyed, the name is free again and the id is not.
    CloudKey.objects.filter(pk=first.pk).update(state="DESTROYED")
    assert new_key(owner, key_set).pk
    with pytest.raises(ValidationFailed):
        new_key(owner, key_set, "third", external_key_id="chosen-1")


def test_only_roles_that_may_create_create(
    colleague: Actor, auditor: Actor, outsider: Actor, key_set: KeySet
) -> None:
    assert new_key(colleague, key_set, "by-colleague").pk
    with pytest.raises(PermissionDenied):
        new_key(auditor, key_set, "by-auditor")
    with pytest.raises(NotFound):
        new_key(outsider, key_set, "by-outsider")


def test_update_tells_aws_only_what_aws_knows(owner: Actor, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    pretend_linked(key)
    quiet = cloud_keys.update_cloud_key(
        owner, key.pk, {"rotation_schedule": {"kind": "none"}}, expected_revision=1
    )
    assert quiet.operation is None
    loud = cloud_keys.update_cloud_key(
        owner, key.pk, {"name": "payments-new", "users": [ADA]}, expected_revision=2
    )
    assert loud.operation is not None
    assert loud.operation.kind == "cloud_key.update_pointer"
    key.refresh_from_db()
    assert (key.name, key.users, key.revision) == ("payments-new", [ADA], 3)
    with pytest.raises(StaleRevision):
        cloud_keys.update_cloud_key(owner, key.pk, {"name": "x"}, expected_revision=2)
    with pytest.raises(ValidationFailed):
        cloud_keys.update_cloud_key(owner, key.pk, {"region": "eu-central-1"})


def test_a_key_goes_back_to_inheriting(owner: Actor, key_set: KeySet) -> None:
    weekly = {"kind": "every", "every": 1, "unit": "weeks"}
    key_sets.update_key_set(owner, key_set.pk, {"rotation_schedule": weekly})
    key = new_key(owner, key_set, rotation_schedule={"kind": "none"})
    assert key.next_rotation_at is None
    cloud_keys.update_cloud_key(owner, key.pk, {"rotation_schedule": {"kind": "inherited"}})
    key.refresh_from_db()
    assert key.rotation_schedule is None
    assert key.next_rotation_at is not None


def test_link_makes_or_adopts(owner: Actor, linked_set: KeySet, key_set: KeySet) -> None:
    key = new_key(owner, linked_set, region="eu-west-1")
    with pytest.raises(Conflict):
        cloud_keys.link_cloud_key(owner, key.pk)
    CloudKey.objects.filter(pk=key.pk).update(pointer_state="NOT_LINKED")
    Operation.objects.all().delete()
    adopted = cloud_keys.link_cloud_key(owner, key.pk, kms_key_id="12ab").operation
    assert adopted is not None
    assert (adopted.kind, adopted.input) == ("cloud_key.link", {"kms_key_id": "12ab"})
    alone = new_key(owner, key_set, "alone")
    with pytest.raises(Conflict, match="no linked"):
        cloud_keys.link_cloud_key(owner, alone.pk)


def test_a_disabled_vault_changes_nothing(owner: Actor, payments: Vault, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    Vault.objects.filter(pk=payments.pk).update(state="DISABLED")
    with pytest.raises(Conflict, match="disabled"):
        new_key(owner, key_set, "another")
    with pytest.raises(Conflict, match="disabled"):
        cloud_keys.update_cloud_key(owner, key.pk, {"description": "x"})


def test_store_of_a_key_set_is_its_own(key_set: KeySet) -> None:
    assert store_of(key_set).cloud_keys.filter(kind="HEALTH_CHECK").count() == 1
