"""Key sets: proxy face, live inheritance, deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.models import CloudKey, CspAccount, KeySet, Operation, XksKeyStore
from cloudkeys.schedules import Schedule
from cloudkeys.services import key_sets, lifecycle, stores
from tests.cast import Cast, new_vault
from tests.cloudkeys.world import new_account, new_key, new_key_set, store_of
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, ValidationFailed
from vault.keys import unseal
from vault.models import Group, Vault

MONTHLY = {"kind": "every", "every": 1, "unit": "months", "hour": 3, "time_zone": "Europe/Berlin"}


def test_an_external_key_store_comes_with_test_key_and_credential(
    owner: Actor, payments: Vault, account: CspAccount
) -> None:
    made = new_key_set(owner, payments, account)
    assert made.store is not None
    assert made.credential is not None
    assert made.store.path_prefix.startswith("/")
    assert made.store.cloud_keys.get().kind == "HEALTH_CHECK"
    stored = made.store.credentials.get()
    assert unseal(stored, "secret_access_key") == made.credential.secret
    assert made.credential.secret.reveal() not in bytes(stored.secret_access_key)
    assert made.credential.console_file() == {
        "XksProxyUriPath": made.store.path_prefix + "/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": stored.access_key_id,
            "RawSecretAccessKey": made.credential.secret.reveal_text(),
        },
    }
    assert made.credential.secret.reveal_text() not in repr(made)


def test_empty_prefixes_may_repeat_others_not(owner: Actor, payments: Vault, account: CspAccount) -> None:
    for name in ("a", "b"):
        assert new_key_set(owner, payments, account, name=name, path_prefix="").store is not None
    new_key_set(owner, payments, account, name="c", path_prefix="/one")
    with pytest.raises(ValidationFailed) as caught:
        new_key_set(owner, payments, account, name="d", path_prefix="/one")
    assert caught.value.field == "path_prefix"
    assert not KeySet.objects.filter(name="d").exists()


def test_a_linked_region_begins_an_operation(owner: Actor, payments: Vault, account: CspAccount) -> None:
    links = [stores.LinkRequest("eu-west-1"), stores.LinkRequest("eu-central-1", linked=False)]
    made = new_key_set(owner, payments, account, links=links)
    assert [each.kind for each in made.operations] == ["store_link.create"]
    states = dict(store_of(made.key_set).links.values_list("region", "state"))
    assert states == {"eu-west-1": "PENDING", "eu-central-1": "NOT_LINKED"}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"type": "GCP"}, "type"),
        ({"protection": "hsm-wrapped"}, "protection"),
        ({"path_prefix": "no-slash"}, "path_prefix"),
        ({"rotation_schedule": {"kind": "daily"}}, "rotation_schedule.kind"),
        ({"links": [stores.LinkRequest("mars-1")]}, "links[0].region"),
        ({"links": [stores.LinkRequest("eu-west-1", endpoint="https://x.example:444")]}, "links[0].endpoint"),
        ({"links": [stores.LinkRequest("eu-west-1"), stores.LinkRequest("eu-west-1")]}, "links[1].region"),
        ({"links": [stores.LinkRequest("eu-west-1")], "use_as_external_key_store": False}, "links"),
        (
            {"links": [stores.LinkRequest("eu-west-1", connectivity="VPC_ENDPOINT_SERVICE")]},
            "links[0].vpc_endpoint_service_name",
        ),
    ],
)
def test_bad_input_names_the_field_and_leaves_nothing(
    owner: Actor, payments: Vault, account: CspAccount, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        new_key_set(owner, payments, account, **more)
    assert caught.value.field == field
    assert not KeySet.objects.exists()
    assert not XksKeyStore.objects.exists()
    assert not Operation.objects.exists()


def test_an_account_of_another_vault_is_none_of_ours(
    owner: Actor, outsider: Actor, payments: Vault, account: CspAccount
) -> None:
    elsewhere = Vault.objects.get(name="Elsewhere")
    foreign = new_account(outsider, elsewhere)
    with pytest.raises(ValidationFailed) as caught:
        new_key_set(owner, payments, foreign)
    assert caught.value.field == "csp_account"


def test_schedules_are_inherited_live(owner: Actor, key_set: KeySet) -> None:
    follows, own = (
        new_key(owner, key_set, "follows"),
        new_key(owner, key_set, "own", rotation_schedule={"kind": "none"}),
    )
    began = datetime(2026, 3, 28, 12, tzinfo=UTC)
    CloudKey.objects.filter(pk=follows.pk).update(rotated_at=began)
    assert follows.next_rotation_at is None
    key_sets.update_key_set(owner, key_set.pk, {"rotation_schedule": MONTHLY})
    follows.refresh_from_db()
    own.refresh_from_db()
    assert follows.next_rotation_at == Schedule(1, "months", 3, "Europe/Berlin").next_after(began)
    assert own.next_rotation_at is None
    key_sets.update_key_set(owner, key_set.pk, {"rotation_schedule": {"kind": "none"}})
    follows.refresh_from_db()
    assert follows.next_rotation_at is None


def test_expiration_is_inherited_live(owner: Actor, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    key_sets.update_key_set(owner, key_set.pk, {"expiration": {"kind": "after", "days": 10}})
    key.refresh_from_db()
    assert key.expires_at == key.created_at + timedelta(days=10)
    later = new_key(owner, key_set, "later")
    assert later.expires_at is not None
    key_sets.update_key_set(owner, key_set.pk, {"expiration": {"kind": "on", "at": "2030-01-01T00:00:00Z"}})
    key.refresh_from_db()
    assert key.expires_at == datetime(2030, 1, 1, tzinfo=UTC)
    key_sets.update_key_set(owner, key_set.pk, {"expiration": {"kind": "never"}})
    key.refresh_from_db()
    assert key.expires_at is None


def test_a_new_schedule_costs_statements_by_day_not_by_key(owner: Actor, key_set: KeySet) -> None:
    def cost() -> int:
        unit = MONTHLY["every"]
        MONTHLY["every"] = 2 if unit == 1 else 1
        with CaptureQueriesContext(
            connection,
        ) as queries:
            key_sets.update_key_set(owner, key_set.pk, {"rotation_schedule": dict(MONTHLY)})
        return len(queries)

    new_key(owner, key_set, "k0")
    CloudKey.objects.update(rotated_at=datetime(2026, 5, 5, 12, tzinfo=UTC))
    few = cost()
    for number in range(1, 5):
        new_key(owner, key_set, f"k{number}")
    CloudKey.objects.update(rotated_at=datetime(2026, 5, 5, 12, tzinfo=UTC))
    assert cost() == few


def test_a_group_owns_its_key_sets(
    cast: Cast, owner: Actor, colleague: Actor, payments: Vault, account: CspAccount
) -> None:
    team = Group.objects.create(vault=payments, name="Team")
    made = new_key_set(owner, payments, account, group=team.pk)
    with pytest.raises(PermissionDenied, match="group"):
        new_key(colleague, made.key_set)
    team.members.add(cast.memberships["colleague"])
    assert new_key(colleague, made.key_set).pk
    foreign = Group.objects.create(vault=new_vault("x"), name="g")
    with pytest.raises(ValidationFailed) as caught:
        key_sets.update_key_set(owner, made.key_set.pk, {"group": foreign.pk})
    assert caught.value.field == "group"


def test_a_key_set_goes_only_when_its_keys_are_gone(owner: Actor, outsider: Actor, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    with pytest.raises(Conflict, match="1 key "):
        key_sets.delete_key_set(owner, key_set.pk)
    with pytest.raises(NotFound):
        key_sets.delete_key_set(outsider, key_set.pk)
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name)
    CloudKey.objects.filter(pk=key.pk).update(delete_after=datetime(2026, 1, 1, tzinfo=UTC))
    lifecycle.destroy_unlinked_key(owner, key.pk, confirm_name=key.name, pointer_is_gone=True)
    key_sets.delete_key_set(owner, key_set.pk)
    assert not KeySet.objects.exists()
    assert not XksKeyStore.objects.exists()
    assert not CloudKey.objects.exists()


def test_turned_into_an_external_key_store_later(owner: Actor, payments: Vault, account: CspAccount) -> None:
    made = new_key_set(owner, payments, account, use_as_external_key_store=False)
    assert made.store is None
    with pytest.raises(Conflict, match="not used as external key store"):
        new_key(owner, made.key_set)
    assert key_sets.use_as_external_key_store(owner, made.key_set.pk).store is not None
    with pytest.raises(Conflict):
        key_sets.use_as_external_key_store(owner, made.key_set.pk)
    assert new_key(owner, made.key_set).state == "ENABLED"
