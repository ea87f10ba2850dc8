"""The kill switch's answer: how many worker processes have confirmed, which have not, and by when those close."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key, owned_key_set
from tests.cloudkeys.world import store_of
from vault import generations
from vault.models import Node, WorkerProcess


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up waiting at once: who confirms here has confirmed before."""
    monkeypatch.setattr(generations.wait_for_generation, "__defaults__", (0.0,))


def workers(*applied: int) -> None:
    """A node with worker processes that have applied these generations."""
    now = timezone.now()
    node = Node.objects.create(name="node-a", started_at=now, last_seen_at=now)
    for number, generation in enumerate(applied):
        WorkerProcess.objects.create(
            node=node, pid=100 + number, instance=str(number), applied_generation=generation, last_seen_at=now
        )


def disabled(cast: Cast, key: CloudKey) -> dict[str, Any]:
    """Disable it; the confirmation."""
    answer = cast.api("owner").post(f"/api/v1/cloud-keys/{key.pk}/disable")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()["confirmation"]
    return found


def test_all_have_confirmed(cast: Cast) -> None:
    key = owned_key(cast)
    workers(2**40, 2**40)
    confirmation = disabled(cast, key)
    assert (confirmation["complete"], confirmation["confirmed"], confirmation["counted"]) == (True, 2, 2)
    assert (confirmation["missing"], confirmation["generation"] > 0) == ([], True)


def test_one_is_missing_and_named_with_its_bound(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_XKS_MAX_STALENESS = 30.0
    key = owned_key(cast)
    workers(2**40, 1)
    confirmation = disabled(cast, key)
    assert (confirmation["complete"], confirmation["confirmed"], confirmation["counted"]) == (False, 1, 2)
    assert confirmation["missing"] == ["node-a pid 101"]
    assert confirmation["bound_s"] == 30.0


def test_who_has_closed_by_itself_is_not_counted(cast: Cast, settings: Any) -> None:
    key = owned_key(cast)
    workers(2**40, 1, 1)
    long_ago = timezone.now() - timedelta(seconds=settings.KEYSTEAD_XKS_MAX_STALENESS + 6)
    WorkerProcess.objects.filter(pid=101).update(last_seen_at=long_ago)
    WorkerProcess.objects.filter(pid=102).update(deregistered_at=timezone.now())
    assert disabled(cast, key)["counted"] == 1


def test_disabling_again_confirms_again(cast: Cast) -> None:
    key = owned_key(cast)
    disabled(cast, key)
    workers(1)
    again = disabled(cast, key)
    assert (again["complete"], again["missing"]) == (False, ["node-a pid 100"])


def test_stores_and_credentials_confirm_too(cast: Cast) -> None:
    store = store_of(owned_key_set(cast))
    workers(2**40)
    api = cast.api("owner")
    url = f"/api/v1/xks-key-stores/{store.pk}"
    assert api.post(f"{url}/block", {"reason": "Incident 7"}).json()["confirmation"]["confirmed"] == 1
    assert api.post(f"{url}/unblock").json()["confirmation"]["confirmed"] == 1
    spare = api.post(f"{url}/credentials").json()
    retired = api.post(f"/api/v1/xks-credentials/{spare['id']}/retire")
    assert retired.json()["confirmation"]["confirmed"] == 1
    assert retired.json()["credential"]["state"] == "RETIRED"


def test_a_destroyed_vault_confirms(cast: Cast) -> None:
    owned_key(cast)
    workers(2**40)
    api = cast.api("appliance")
    ended = api.post(f"/api/v1/vaults/{cast.vault.pk}/disable")
    url = f"/api/v1/vaults/{cast.vault.pk}/destruction"
    lost = api.get(url).json()
    assert (lost["cloud_keys"], lost["key_versions"], lost["credentials"]) == (1, 2, 1)
    assert api.post(url, {"confirm_name": "payments"}, if_match="*").json()["field"] == "confirm_name"
    stale = api.post(url, {"confirm_name": "Payments"}, if_match='"1"')
    assert stale.status_code == 412
    done = api.post(url, {"confirm_name": "Payments"}, if_match=ended.headers["ETag"])
    assert done.status_code == 200, done.content
    assert (done.json()["state"], done.json()["confirmation"]["confirmed"]) == ("DESTROYED", 1)
    assert set(CloudKey.objects.values_list("state", flat=True)) == {"DESTROYED"}
