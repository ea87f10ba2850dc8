"""Limits of stores by service and API, and their way to the workers."""

from __future__ import annotations

import pytest

from cloudkeys.models import XksKeyStore
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key_set
from tests.cloudkeys.world import store_of
from vault.errors import StaleRevision, ValidationFailed
from vault.models import AuditEvent
from xks.agent_loading import Applied, load_changes, load_everything
from xks.models import StoreLimits
from xks.services.limits import fetch_store_limits, update_store_limits


@pytest.fixture
def store(cast: Cast) -> XksKeyStore:
    return store_of(owned_key_set(cast))


def test_limits_reach_the_workers(cast: Cast, store: XksKeyStore) -> None:
    actor = cast.actor("colleague")
    before = load_everything(60.0)
    assert (before.stores[0].rate_per_s, before.stores[0].credential_rate_per_s) == (None, None)
    applied = Applied.after(before, None)
    update_store_limits(actor, store.pk, {"requests_per_s": 1800})
    loaded = load_changes(applied, 60.0)
    assert loaded is not None
    assert (loaded.stores[0].rate_per_s, loaded.stores[0].credential_rate_per_s) == (1800.0, None)
    update_store_limits(actor, store.pk, {"requests_per_s": None, "credential_requests_per_s": 5})
    (record,) = load_everything(60.0).stores
    assert (record.rate_per_s, record.credential_rate_per_s) == (None, 5.0)


def test_changes_are_audited_and_what_changes_nothing_is_not(cast: Cast, store: XksKeyStore) -> None:
    actor = cast.actor("owner")
    assert fetch_store_limits(actor, store.pk).requests_per_s is None
    assert not StoreLimits.objects.exists()
    _, first = update_store_limits(actor, store.pk, {"requests_per_s": 10})
    _, second = update_store_limits(actor, store.pk, {"requests_per_s": 10})
    assert first
    assert not second
    (event,) = AuditEvent.objects.filter(action="xks:store_limits:update")
    assert event.before == {"requests_per_s": None, "credential_requests_per_s": None}
    assert event.after == {"requests_per_s": 10, "credential_requests_per_s": None}


@pytest.mark.parametrize("value", [0, -1, 1_000_001])
def test_bad_limits(cast: Cast, store: XksKeyStore, value: int) -> None:
    with pytest.raises(ValidationFailed):
        update_store_limits(cast.actor("owner"), store.pk, {"requests_per_s": value})
    assert not StoreLimits.objects.exists()


def test_by_api(cast: Cast, store: XksKeyStore) -> None:
    api, path = cast.api("colleague"), f"/api/v1/xks-key-stores/{store.pk}/limits"
    shown = api.get(path)
    assert shown.json()["requests_per_s"] is None
    changed = api.patch(path, {"requests_per_s": 100}, if_match=shown["ETag"])
    assert changed.status_code == 200
    assert changed.json()["limits"]["requests_per_s"] == 100
    assert changed.json()["confirmation"]["complete"]
    assert api.patch(path, {"requests_per_s": 5}, if_match=shown["ETag"]).status_code == 412
    assert api.patch(path, {"requests_per_s": 0}, if_match="*").status_code == 400
    assert api.patch(path, {"requests_per_s": 1.5}, if_match="*").status_code == 400
    assert api.get(path).json()["requests_per_s"] == 100


def test_stale(cast: Cast, store: XksKeyStore) -> None:
    with pytest.raises(StaleRevision):
        update_store_limits(cast.actor("owner"), store.pk, {"requests_per_s": 1}, expected_revision=9)
    assert not StoreLimits.objects.exists()
