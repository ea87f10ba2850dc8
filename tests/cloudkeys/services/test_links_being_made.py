"""AWS key stores that are just being made, or gone."""

from __future__ import annotations

import pytest

from cloudkeys.models import AwsStoreLink, CloudKey, KeySet, Operation
from cloudkeys.services import stores
from cloudkeys.services.cloud_keys import create_cloud_key
from tests.cloudkeys.world import store_of
from vault.actors import Actor
from vault.errors import Conflict

pytestmark = pytest.mark.django_db


def test_a_store_that_is_being_made_is_not_forgotten(owner: Actor, key_set: KeySet) -> None:
    """The operation that makes it would leave an AWS key store behind that nobody knows."""
    added = stores.create_store_link(owner, store_of(key_set).pk, stores.LinkRequest(region="eu-west-1"))
    with pytest.raises(Conflict, match="under way"):
        stores.delete_store_link(owner, added.link.pk)
    assert AwsStoreLink.objects.filter(pk=added.link.pk).exists()
    Operation.objects.update(state="FAILED")
    AwsStoreLink.objects.update(state="FAILED")
    assert stores.delete_store_link(owner, added.link.pk) is None
    assert not AwsStoreLink.objects.filter(pk=added.link.pk).exists()


def test_a_region_whose_store_is_gone_gets_another_although_keys_name_the_first(
    owner: Actor, key_set: KeySet
) -> None:
    store = store_of(key_set)
    first = stores.create_store_link(
        owner, store.pk, stores.LinkRequest(region="eu-west-1", linked=False)
    ).link
    key = create_cloud_key(owner, key_set.pk, name="payments", region="eu-west-1").key
    assert key.link_id == first.pk
    AwsStoreLink.objects.update(state="GONE")
    second = stores.create_store_link(
        owner, store.pk, stores.LinkRequest(region="eu-west-1", linked=False)
    ).link
    assert AwsStoreLink.objects.get() == second
    assert CloudKey.objects.get(pk=key.pk).link_id == second.pk
