"""The contract of a cloud provider, run over every implementation.

A test class of an implementation inherits ProviderContract and gives the fixture `cloud`: a provider, a region, a
connected external key store's id in it, and external key ids that its proxy knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from cloudkeys.providers.base import (
    ErrorCode,
    KeySpec,
    KeyStoreChanges,
    KeyStoreSpec,
    PointerKey,
    Provider,
    ProviderError,
)

NO_KEY = "00000000-0000-0000-0000-000000000000"


@dataclass
class Cloud:
    """What an implementation brings to the contract."""

    provider: Provider
    region: str
    store: KeyStoreSpec
    external_key_ids: list[str]
    strangers: Callable[[], Provider]
    administrators: list[str]


@pytest.fixture
def store_id(cloud: Cloud) -> str:
    """A connected key store."""
    made = cloud.provider.create_key_store(cloud.region, cloud.store)
    cloud.provider.connect_key_store(cloud.region, made)
    wait_for(cloud, made, "CONNECTED")
    return made


def wait_for(cloud: Cloud, store_id: str, state: str) -> None:
    """Look until the key store has that state."""
    for _ in range(500):
        store = cloud.provider.find_key_store(cloud.region, id=store_id)
        assert store is not None
        if store.state == state:
            return
        assert store.state != "FAILED", store.error_code
    raise AssertionError(f"never {state}")


@pytest.fixture
def key(cloud: Cloud, store_id: str) -> PointerKey:
    """A key pointer."""
    return cloud.provider.create_key(
        cloud.region,
        KeySpec(
            store_id,
            cloud.external_key_ids[0],
            "For payments",
            tags={"team": "pay", "keystead:cloud-key": "1"},
        ),
    )


def code_of(call: Callable[[], object]) -> tuple[ErrorCode, bool]:
    """The error that a call ends with, which must say its cause."""
    with pytest.raises(ProviderError) as caught:
        call()
    assert caught.value.cause
    return ErrorCode(caught.value.code), caught.value.permanent


class ProviderContract:
    """What every provider does."""

    def test_identity(self, cloud: Cloud) -> None:
        identity = cloud.provider.identity()
        assert identity.account_id
        assert identity.account_id in identity.arn

    def test_access_names_every_action_with_its_feature(self, cloud: Cloud) -> None:
        report = cloud.provider.probe_access()
        assert report.ok
        assert {check.result for check in report.checks} == {"allowed"}
        assert all(check.action and check.feature for check in report.checks)

    def test_a_credential_that_is_none_says_so(self, cloud: Cloud) -> None:
        assert code_of(cloud.strangers().identity) == (ErrorCode.INVALID_CREDENTIAL, True)

    def test_principals_are_named_and_sorted(self, cloud: Cloud) -> None:
        principals = cloud.provider.list_principals()
        assert {each.arn for each in principals} >= set(cloud.administrators)
        assert [each.kind for each in principals] == sorted((each.kind for each in principals), reverse=True)

    def test_access_keys_are_made_two_at_most_and_deleted_twice(self, cloud: Cloud) -> None:
        provider = cloud.provider
        (present,) = provider.list_access_keys()
        made = provider.create_access_key()
        assert made.secret_access_key.reveal_text() not in repr(made)
        assert not provider.access_key_was_used(made.access_key_id)
        assert code_of(provider.create_access_key) == (ErrorCode.LIMIT, True)
        provider.set_access_key_active(made.access_key_id, False)
        listed = {entry.access_key_id: entry.active for entry in provider.list_access_keys()}
        assert listed == {present.access_key_id: True, made.access_key_id: False}
        provider.delete_access_key(made.access_key_id)
        provider.delete_access_key(made.access_key_id)
        assert [entry.access_key_id for entry in provider.list_access_keys()] == [present.access_key_id]

    # --- key stores -----------------------------------------------------------------------------------------------

    def test_a_store_is_found_by_id_and_by_name(self, cloud: Cloud, store_id: str) -> None:
        by_id = cloud.provider.find_key_store(cloud.region, id=store_id)
        assert by_id is not None
        assert by_id == cloud.provider.find_key_store(cloud.region, name=cloud.store.name)
        assert (by_id.type, by_id.state) == ("EXTERNAL_KEY_STORE", "CONNECTED")
        assert (by_id.endpoint, by_id.uri_path) == (cloud.store.endpoint, cloud.store.uri_path)
        assert by_id.proxy_access_key_id == cloud.store.proxy_access_key_id
        assert cloud.provider.find_key_store(cloud.region, name="no such store") is None
        assert cloud.provider.find_key_store(cloud.region, id="cks-00000000000000000") is None

    def test_names_and_addresses_of_stores_are_unique(self, cloud: Cloud, store_id: str) -> None:
        again = lambda spec: cloud.provider.create_key_store(cloud.region, spec)  # noqa: E731
        assert code_of(lambda: again(cloud.store)) == (ErrorCode.ALREADY_EXISTS, True)
        assert code_of(lambda: again(replace(cloud.store, name="other"))) == (ErrorCode.ALREADY_EXISTS, True)

    def test_a_connected_store_is_renamed_and_not_moved_or_deleted(self, cloud: Cloud, store_id: str) -> None:
        provider, region = cloud.provider, cloud.region
        provider.update_key_store(region, store_id, KeyStoreChanges(name="renamed"))
        store = provider.find_key_store(region, id=store_id)
        assert store is not None
        assert store.name == "renamed"
        moved = KeyStoreChanges(endpoint="https://elsewhere.example.com")
        assert code_of(lambda: provider.update_key_store(region, store_id, moved))[0] == ErrorCode.WRONG_STATE
        assert code_of(lambda: provider.delete_key_store(region, store_id))[0] == ErrorCode.WRONG_STATE

    def test_a_store_goes_when_disconnected_and_empty(self, cloud: Cloud, store_id: str) -> None:
        cloud.provider.disconnect_key_store(cloud.region, store_id)
        wait_for(cloud, store_id, "DISCONNECTED")
        cloud.provider.delete_key_store(cloud.region, store_id)
        cloud.provider.delete_key_store(cloud.region, store_id)
        assert cloud.provider.find_key_store(cloud.region, id=store_id) is None

    def test_a_store_with_keys_stays(self, cloud: Cloud, store_id: str, key: PointerKey) -> None:
        cloud.provider.disconnect_key_store(cloud.region, store_id)
        wait_for(cloud, store_id, "DISCONNECTED")
        refused = code_of(lambda: cloud.provider.delete_key_store(cloud.region, store_id))
        assert refused == (ErrorCode.NOT_EMPTY, True)

    # --- keys -----------------------------------------------------------------------------------------------------

    def test_a_key_says_what_it_is(self, cloud: Cloud, store_id: str, key: PointerKey) -> None:
        assert cloud.provider.find_key(cloud.region, key.id) == key
        assert cloud.provider.find_key(cloud.region, key.arn) == key
        assert (key.state, key.origin, key.description) == ("Enabled", "EXTERNAL_KEY_STORE", "For payments")
        assert (key.key_store_id, key.external_key_id) == (store_id, cloud.external_key_ids[0])
        assert cloud.provider.key_tags(cloud.region, key.id) == {"team": "pay", "keystead:cloud-key": "1"}
        assert cloud.provider.find_key(cloud.region, NO_KEY) is None

    def test_one_external_key_has_one_key_and_is_found_by_it(
        self, cloud: Cloud, store_id: str, key: PointerKey
    ) -> None:
        again = KeySpec(store_id, cloud.external_key_ids[0], "again")
        refused = code_of(lambda: cloud.provider.create_key(cloud.region, again))
        assert refused == (ErrorCode.EXTERNAL_KEY_IN_USE, True)
        found = cloud.provider.find_key_by_external_id(cloud.region, store_id, cloud.external_key_ids[0])
        assert found == key
        assert cloud.provider.find_key_by_external_id(cloud.region, store_id, "another") is None

    def test_a_key_of_an_unknown_external_key_is_refused(self, cloud: Cloud, store_id: str) -> None:
        spec = KeySpec(store_id, "nobody-knows-this", "")
        assert code_of(lambda: cloud.provider.create_key(cloud.region, spec))[0] == ErrorCode.XKS_REFUSED

    def test_aliases(self, cloud: Cloud, store_id: str, key: PointerKey) -> None:
        provider, region = cloud.provider, cloud.region
        provider.create_alias(region, "alias/payments-prod", key.id)
        assert provider.key_aliases(region, key.id) == ["alias/payments-prod"]
        found = provider.find_key(region, "alias/payments-prod")
        assert found is not None
        assert found.id == key.id
        other = provider.create_key(region, KeySpec(store_id, cloud.external_key_ids[1], ""))
        refused = code_of(lambda: provider.create_alias(region, "alias/payments-prod", other.id))
        assert refused == (ErrorCode.ALREADY_EXISTS, True)
        provider.delete_alias(region, "alias/payments-prod")
        provider.delete_alias(region, "alias/payments-prod")
        assert provider.find_key(region, "alias/payments-prod") is None

    def test_description_and_tags_become_what_is_asked(self, cloud: Cloud, key: PointerKey) -> None:
        provider, region = cloud.provider, cloud.region
        provider.set_description(region, key.id, "For archives")
        provider.set_tags(region, key.id, {"team": "archive", "cost": "7"})
        provider.set_tags(region, key.id, {"team": "archive", "cost": "7"})
        found = provider.find_key(region, key.id)
        assert found is not None
        assert found.description == "For archives"
        assert provider.key_tags(region, key.id) == {"team": "archive", "cost": "7"}

    def test_a_policy_never_locks_the_account_out(self, cloud: Cloud, key: PointerKey) -> None:
        provider, region = cloud.provider, cloud.region
        provider.set_policy(region, key.id, cloud.administrators, cloud.administrators)
        provider.set_policy(region, key.id, [], [])
        provider.set_description(region, key.id, "still ours")
        refused = code_of(
            lambda: provider.set_policy(region, key.id, [cloud.administrators[0] + "-gone"], [])
        )
        assert refused == (ErrorCode.INVALID_REQUEST, True)

    def test_disable_and_enable_may_be_repeated(self, cloud: Cloud, key: PointerKey) -> None:
        provider, region = cloud.provider, cloud.region
        for act, state in ((provider.disable_key, "Disabled"), (provider.enable_key, "Enabled")):
            act(region, key.id)
            act(region, key.id)
            found = provider.find_key(region, key.id)
            assert found is not None
            assert found.state == state

    def test_deletion_is_scheduled_once_and_cancelled_once(self, cloud: Cloud, key: PointerKey) -> None:
        provider, region = cloud.provider, cloud.region
        at = provider.schedule_key_deletion(region, key.id, 7)
        assert at is not None
        assert abs(at - datetime.now(UTC) - timedelta(days=7)) < timedelta(days=1, minutes=5)
        assert provider.schedule_key_deletion(region, key.id, 7) is None
        found = provider.find_key(region, key.id)
        assert found is not None
        assert (found.state, found.deletion_at) == ("PendingDeletion", at)
        assert code_of(lambda: provider.enable_key(region, key.id)) == (ErrorCode.WRONG_STATE, True)
        provider.cancel_key_deletion(region, key.id)
        provider.cancel_key_deletion(region, key.id)
        found = provider.find_key(region, key.id)
        assert found is not None
        assert found.state == "Disabled"

    def test_what_is_not_there_is_said_to_be_missing(self, cloud: Cloud) -> None:
        provider, region = cloud.provider, cloud.region
        for call in (
            lambda: provider.disable_key(region, NO_KEY),
            lambda: provider.key_tags(region, NO_KEY),
            lambda: provider.cancel_key_deletion(region, NO_KEY),
            lambda: provider.connect_key_store(region, "cks-00000000000000000"),
        ):
            assert code_of(call) == (ErrorCode.NOT_FOUND, True)
