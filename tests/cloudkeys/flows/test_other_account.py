"""A CSP account whose credential now speaks for another AWS account: nothing may be taken as gone because of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from cloudkeys.flows import data_plane
from cloudkeys.models import CloudKey, Operation
from cloudkeys.operations import runner
from cloudkeys.providers import aws_connection
from cloudkeys.services import lifecycle, stores
from cloudkeys.services.accounts import update_csp_account
from cloudkeys.simulators.aws.context import ACCOUNTS
from cloudkeys.upkeep import refresh_due_pointers
from tests.cloudkeys.cloud import World, connected, linked
from tests.cloudkeys.crashing import run_to_end
from vault.actors import Actor
from vault.secret import Secret


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_connection, "ATTEMPTS", 1)
    monkeypatch.setattr(data_plane, "WAIT_S", 0.0)


@pytest.fixture
def key(world: World) -> CloudKey:
    return linked(connected(world), "payments-prod")


def point_elsewhere(world: World) -> None:
    """Give the CSP account an access key of another AWS account."""
    other = world.aws.server.sim.state.ensure_administrators((ACCOUNTS[1],))[0]
    update_csp_account(
        world.actor,
        world.account.pk,
        {"access_key_id": other.access_key_id},
        secret_access_key=Secret(other.secret_access_key),
    )


def test_material_is_not_destroyed_because_another_account_has_no_such_kms_key(
    world: World, key: CloudKey
) -> None:
    asked = lifecycle.schedule_deletion(world.actor, key.pk, confirm_name=key.name, window_days=7)
    assert asked.operation is not None
    run_to_end(asked.operation)
    # In AWS somebody has thought better of it: the KMS key lives and data depends on it.
    world.aws.client("kms").cancel_key_deletion(KeyId=key.kms_key_id)
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(minutes=1))
    point_elsewhere(world)

    assert lifecycle.finish_due_deletions(Actor.system("worker")) == 1
    operation = Operation.objects.get(kind="cloud_key.destroy", target_id=key.pk)
    runner.run_operation(operation.pk)

    operation.refresh_from_db()
    key.refresh_from_db()
    assert operation.error["code"] == "other_account"
    assert (key.state, key.pointer_state) == ("PENDING_DELETION", "LINKED")
    assert key.versions.filter(material=None).count() == 0


def test_a_pointer_is_not_called_gone_by_another_account(world: World, key: CloudKey) -> None:
    CloudKey.objects.filter(pk=key.pk).update(cloud_state_at=None)
    point_elsewhere(world)
    refresh_due_pointers(Actor.system("worker"))
    key.refresh_from_db()
    assert key.pointer_state == "LINKED"


@pytest.mark.parametrize("act", ["refresh", "delete"])
def test_a_key_store_is_not_called_gone_by_another_account(world: World, act: str) -> None:
    connected(world)
    assert world.link is not None
    point_elsewhere(world)
    begin = stores.refresh_store if act == "refresh" else stores.delete_store_link
    operation = begin(world.actor, world.link.pk)
    assert operation is not None
    assert run_to_end(operation).error["code"] == "other_account"
    world.link.refresh_from_db()
    assert (world.link.state, world.link.linked) == ("CONNECTED", True)
    assert [store["ConnectionState"] for store in world.aws.key_stores()] == ["CONNECTED"]
