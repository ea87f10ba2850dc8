"""Rotation, destruction, adoption and connecting, killed after every external call and every commit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey, CspAccount, KeyVersion, Operation
from cloudkeys.services import cloud_keys, lifecycle, stores, versions
from cloudkeys.simulators.aws import kms_keys
from tests.cloudkeys.cloud import Aws, World, connected, copy_of, linked, new_world, simulated_account
from tests.cloudkeys.crashing import every_crash_point, run_to_end
from tests.cloudkeys.flows.test_provisioning import unlinked_key_and_store
from tests.cloudkeys.flows.test_store_links import made_in_console, unlinked
from vault.actors import Actor
from vault.keys import unseal
from vault.models import Vault

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


def with_key(shared: World, name: str) -> World:
    world = copy_of(shared)
    linked(world, name)
    return world


def key_of(world: World) -> CloudKey:
    assert world.key is not None
    world.key.refresh_from_db()
    return world.key


def asked(operation: Operation | None) -> Operation:
    assert operation is not None
    return operation


def test_rotating_makes_one_version_and_loses_none(shared: World) -> None:
    before: dict[str, bytes] = {}

    def begin(world: World) -> Operation:
        key = key_of(world)
        before[str(key.pk)] = unseal(key.versions.get(), "material").reveal()
        return versions.rotate_cloud_key(world.actor, key.pk).operation

    def check(world: World, operation: Operation, where: str) -> None:
        key = key_of(world)
        assert operation.state == "SUCCEEDED", (where, operation.error)
        assert (key.current_version, key.state) == (2, "ENABLED"), where
        first, second = key.versions.all()
        assert unseal(first, "material").reveal() == before[str(key.pk)]
        assert unseal(second, "material").reveal() != before[str(key.pk)]
        assert second.activated_at is not None

    points = every_crash_point(lambda number: with_key(shared, f"key-{number}"), begin, check)
    assert set(points) == {"commit"}


def test_destroying_waits_for_aws_and_erases_all(shared: World, aws: Aws) -> None:
    def scenario(number: int) -> World:
        world = with_key(shared, f"key-{number}")
        key = key_of(world)
        run_to_end(
            asked(
                lifecycle.schedule_deletion(
                    world.actor, key.pk, confirm_name=key.name, window_days=7
                ).operation
            )
        )
        sim = aws.server.sim
        sim.state.advance_clock(8 * 86400.0)
        kms_keys.destroy_due_keys(sim)
        CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(seconds=1))
        return world

    def begin(world: World) -> Operation:
        assert lifecycle.finish_due_deletions(world.actor) == 1
        return world.operation("cloud_key.destroy", key_of(world))

    def check(world: World, operation: Operation, where: str) -> None:
        key = key_of(world)
        assert operation.state == "SUCCEEDED", (where, operation.error)
        assert (key.state, key.pointer_state) == ("DESTROYED", "GONE"), where
        assert not KeyVersion.objects.filter(cloud_key=key).exclude(material=None).exists()
        assert lifecycle.finish_due_deletions(world.actor) == 0

    points = every_crash_point(scenario, begin, check)
    # AWS answers DescribeKey with NotFound, which is no point: only what succeeded can have been half done.
    assert {"aws GetCallerIdentity", "commit"} <= set(points)


def test_adopting_a_key(
    owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any
) -> None:
    def scenario(number: int) -> World:
        world = new_world(owner, payments, aws, account, f"pay-{number}")
        world.key, store_id = unlinked_key_and_store(world, f"by-hand-{number}")
        made = aws.client("kms").create_key(
            Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=world.key.external_key_id
        )
        kms_ids[str(world.key.pk)] = made["KeyMetadata"]["KeyId"]
        return world

    kms_ids: dict[str, str] = {}

    def begin(world: World) -> Operation:
        key = key_of(world)
        return asked(
            cloud_keys.link_cloud_key(world.actor, key.pk, kms_key_id=kms_ids[str(key.pk)]).operation
        )

    def check(world: World, operation: Operation, where: str) -> None:
        key = key_of(world)
        assert operation.state == "SUCCEEDED", (where, operation.error)
        assert (key.pointer_state, key.kms_key_id) == ("LINKED", kms_ids[str(key.pk)]), where
        assert aws.aliases()[key.alias] == key.kms_key_id
        found = [
            k for k in aws.kms_keys() if k.get("XksKeyConfiguration", {}).get("Id") == key.external_key_id
        ]
        assert len(found) == 1, where

    assert "commit" in every_crash_point(scenario, begin, check)


def test_adopting_and_connecting_a_store(
    owner: Actor, payments: Vault, aws: Aws, account: CspAccount, xks_workers: Any
) -> None:
    made: dict[str, str] = {}

    def scenario(number: int) -> World:
        world = new_world(owner, payments, aws, account, f"pay-{number}")
        world.link = unlinked(world)
        made[str(world.link.pk)] = made_in_console(world, CustomKeyStoreName=f"by hand {number}")
        return world

    def adopt(world: World) -> Operation:
        assert world.link is not None
        store_id = made[str(world.link.pk)]
        return asked(stores.link_store(world.actor, world.link.pk, custom_key_store_id=store_id).operation)

    def connect(world: World) -> Operation:
        run_to_end(adopt(world))
        assert world.link is not None
        return stores.connect_store(world.actor, world.link.pk)

    def check_state(state: str) -> Any:
        def check(world: World, operation: Operation, where: str) -> None:
            assert operation.state == "SUCCEEDED", (where, operation.error)
            assert world.link is not None
            world.link.refresh_from_db()
            store_id = made[str(world.link.pk)]
            assert (world.link.linked, world.link.custom_key_store_id) == (True, store_id), where
            (found,) = [each for each in aws.key_stores() if each["CustomKeyStoreId"] == store_id]
            assert (world.link.state, found["ConnectionState"]) == (state, state), where
            free(store_id, found["ConnectionState"])

        return check

    def free(store_id: str, state: str) -> None:
        """AWS allows ten stores to an account and region."""
        kms = aws.client("kms")
        if state == "CONNECTED":
            kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
        kms.delete_custom_key_store(CustomKeyStoreId=store_id)

    assert "aws DescribeCustomKeyStores" in every_crash_point(scenario, adopt, check_state("DISCONNECTED"))
    assert "aws ConnectCustomKeyStore" in every_crash_point(
        lambda number: scenario(number + 100), connect, check_state("CONNECTED")
    )
