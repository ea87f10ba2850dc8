"""Rotation in two steps: known everywhere first, used only then."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.services import lifecycle, versions
from tests.cloudkeys.world import new_key
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NotFound, PermissionDenied
from vault.keys import unseal
from vault.models import GenerationChange

SYSTEM = Actor.system("worker")
EVERY = {"kind": "every", "every": 30, "unit": "days"}


@pytest.fixture
def key(owner: Actor, key_set: KeySet) -> CloudKey:
    return new_key(owner, key_set, rotation_schedule=EVERY)


def activate(key: CloudKey, number: int) -> None:
    with change(SYSTEM) as tx:
        versions.activate_version(tx, CloudKey.objects.select_for_update().get(pk=key.pk), number)


def test_a_new_version_is_known_before_it_encrypts(owner: Actor, key: CloudKey) -> None:
    begun = versions.rotate_cloud_key(owner, key.pk)
    key.refresh_from_db()
    assert key.current_version == 1
    assert begun.version.number == 2
    assert begun.version.activated_at is None
    assert GenerationChange.objects.filter(generation=begun.generation, object_id=key.pk).exists()
    assert begun.operation.kind == "cloud_key.rotate"
    before = key.rotated_at
    activate(key, 2)
    key.refresh_from_db()
    assert key.current_version == 2
    assert key.rotated_at > before
    assert key.next_rotation_at is not None
    assert key.next_rotation_at > timezone.now()
    first, second = key.versions.all()
    assert unseal(first, "material") != unseal(second, "material")


def test_activating_again_changes_nothing(owner: Actor, key: CloudKey) -> None:
    versions.rotate_cloud_key(owner, key.pk)
    activate(key, 2)
    key.refresh_from_db()
    revision = key.revision
    activate(key, 2)
    key.refresh_from_db()
    assert (key.revision, key.current_version) == (revision, 2)


def test_a_rotation_left_half_way_is_taken_up(owner: Actor, key: CloudKey) -> None:
    versions.rotate_cloud_key(owner, key.pk)
    Operation.objects.update(state="FAILED")
    assert versions.rotate_cloud_key(owner, key.pk).version.number == 2
    assert key.versions.count() == 2


def test_due_keys_rotate_once(owner: Actor, key: CloudKey, key_set: KeySet) -> None:
    disabled = new_key(owner, key_set, "disabled", rotation_schedule=EVERY)
    lifecycle.disable_cloud_key(owner, disabled.pk, reason="")
    assert versions.rotate_due_keys(SYSTEM) == 0
    CloudKey.objects.filter(kind="USER").update(next_rotation_at=timezone.now() - timedelta(minutes=1))
    assert versions.rotate_due_keys(SYSTEM) == 1
    assert versions.rotate_due_keys(SYSTEM) == 0
    assert key.versions.count() == 2
    assert disabled.versions.count() == 1


def test_what_does_not_encrypt_does_not_rotate(owner: Actor, key: CloudKey, key_set: KeySet) -> None:
    lifecycle.retire_cloud_key(owner, key.pk)
    with pytest.raises(Conflict):
        versions.rotate_cloud_key(owner, key.pk)
    silent = new_key(owner, key_set, "silent", permitted_uses=["DECRYPT"])
    with pytest.raises(Conflict):
        versions.rotate_cloud_key(owner, silent.pk)


def test_who_may_rotate(colleague: Actor, auditor: Actor, outsider: Actor, key: CloudKey) -> None:
    with pytest.raises(PermissionDenied):
        versions.rotate_cloud_key(auditor, key.pk)
    with pytest.raises(NotFound):
        versions.rotate_cloud_key(outsider, key.pk)
    assert versions.rotate_cloud_key(colleague, key.pk).version.number == 2
