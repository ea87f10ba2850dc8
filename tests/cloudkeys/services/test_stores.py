"""The proxy face: credentials, block, AWS store links."""

from __future__ import annotations

import pytest

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, XksKeyStore
from cloudkeys.services import credentials, stores
from tests.cloudkeys.world import new_key, new_key_set, store_of
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, ValidationFailed
from vault.keys import SecretAbsent, unseal
from vault.models import Vault


@pytest.fixture
def store(key_set: KeySet) -> XksKeyStore:
    return store_of(key_set)


def test_two_credentials_live_and_one_retires(owner: Actor, store: XksKeyStore) -> None:
    first = store.credentials.get()
    second = credentials.create_xks_credential(owner, store.pk)
    assert unseal(second.credential, "secret_access_key") == second.secret
    retired, generation = credentials.retire_xks_credential(owner, first.pk)
    assert generation > 0
    assert (retired.state, retired.secret_access_key) == ("RETIRED", None)
    with pytest.raises(SecretAbsent):
        unseal(retired, "secret_access_key")
    with pytest.raises(Conflict, match="last live"):
        credentials.retire_xks_credential(owner, second.credential.pk)
    assert (
        credentials.retire_xks_credential(owner, second.credential.pk, even_the_last=True)[0].state
        == "RETIRED"
    )
    with pytest.raises(Conflict, match="retired already"):
        credentials.retire_xks_credential(owner, first.pk)


def test_secrets_are_shown_again_for_conformance_stores_only(owner: Actor, store: XksKeyStore) -> None:
    with pytest.raises(Conflict):
        credentials.reveal_conformance_credential(owner, store)
    XksKeyStore.objects.update(is_conformance=True)
    store.refresh_from_db()
    shown = credentials.reveal_conformance_credential(owner, store)
    assert shown.secret == unseal(store.credentials.get(), "secret_access_key")


def test_block_and_unblock(
    owner: Actor, colleague: Actor, auditor: Actor, outsider: Actor, store: XksKeyStore
) -> None:
    with pytest.raises(PermissionDenied):
        stores.block_xks_store(auditor, store.pk, reason="x")
    with pytest.raises(NotFound):
        stores.block_xks_store(outsider, store.pk, reason="x")
    blocked, generation = stores.block_xks_store(colleague, store.pk, reason="Incident 7")
    assert (blocked.blocked, blocked.blocked_reason) == (True, "Incident 7")
    with pytest.raises(PermissionDenied):
        stores.unblock_xks_store(colleague, store.pk)
    freed, later = stores.unblock_xks_store(owner, store.pk)
    assert (freed.blocked, freed.blocked_reason) == (False, "")
    assert later > generation


def test_one_aws_store_in_each_region(owner: Actor, store: XksKeyStore) -> None:
    added = stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1"))
    assert added.operation is not None
    assert (added.link.state, added.link.name, added.link.endpoint) == (
        "PENDING",
        "pay-hyok",
        "https://xks.keystead.test",
    )
    with pytest.raises(ValidationFailed) as caught:
        stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1", linked=False))
    assert caught.value.field == "region"
    AwsStoreLink.objects.update(state="GONE")
    again = stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1", linked=False))
    assert (again.link.state, again.operation) == ("NOT_LINKED", None)


def test_without_an_account_only_unlinked(owner: Actor, payments: Vault) -> None:
    store = store_of(new_key_set(owner, payments, None, name="bare").key_set)
    with pytest.raises(ValidationFailed) as caught:
        stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1"))
    assert caught.value.field == "linked"
    assert stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1", linked=False)).link.pk


def test_linking_an_unlinked_store(owner: Actor, store: XksKeyStore) -> None:
    link = stores.create_store_link(owner, store.pk, stores.LinkRequest("eu-west-1", linked=False)).link
    with pytest.raises(Conflict):
        stores.connect_store(owner, link.pk)
    adopt = stores.link_store(owner, link.pk, custom_key_store_id="cks-7").operation
    assert adopt is not None
    assert (adopt.kind, adopt.input) == ("store_link.link", {"custom_key_store_id": "cks-7"})


def test_a_store_with_kms_keys_is_not_deleted(owner: Actor, payments: Vault, account: CspAccount) -> None:
    made = new_key_set(owner, payments, account, name="linked", links=[stores.LinkRequest("eu-west-1")])
    AwsStoreLink.objects.update(state="CONNECTED", custom_key_store_id="cks-1")
    made.operations[0].delete()
    link = AwsStoreLink.objects.get()
    key = new_key(owner, made.key_set)
    with pytest.raises(Conflict, match="still in AWS: 1"):
        stores.delete_store_link(owner, link.pk)
    CloudKey.objects.filter(pk=key.pk).update(state="DESTROYED")
    operation = stores.delete_store_link(owner, link.pk)
    assert operation is not None
    assert operation.kind == "store_link.delete"


def test_settings_of_the_face(owner: Actor, store: XksKeyStore) -> None:
    changed = stores.update_xks_store(
        owner,
        store.pk,
        {"max_staleness_s": 30, "allowed_regions": ["eu-west-1", "eu-west-1"]},
        expected_revision=1,
    )
    assert (changed.max_staleness_s, changed.allowed_regions, changed.revision) == (30, ["eu-west-1"], 2)
    for bad in ({"max_staleness_s": 0}, {"allowed_regions": ["EU"]}, {"path_prefix": "/x"}):
        with pytest.raises(ValidationFailed):
            stores.update_xks_store(owner, store.pk, bad)
