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
from vault.models import AuditEvent, Node, WorkerProcess


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
    assert confirmation["missing"] == ["node-a pid 101 (has applied 1)"]
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
    assert (again["complete"], again["missing"]) == (False, ["node-a pid 100 (has applied 1)"])


@pytest.mark.parametrize(
    ("fields", "silent_s", "why", "closes_in_s"),
    [
        ({"state": "STOPPED"}, 0, "STOPPED", 60),
        ({"state": "DRAINING"}, 0, "DRAINING", 60),
        ({"state": "STARTING", "applied_generation": 0}, 0, "STARTING", 60),
        ({"applied_generation": 0}, 20, "STALE", 40),
        ({"applied_generation": 0}, 63, "STALE", 0),
        ({"applied_generation": 1}, 0, "BEHIND", 60),
    ],
)
def test_each_that_is_missing_is_told_with_why_and_until_when(
    cast: Cast, fields: dict[str, Any], silent_s: float, why: str, closes_in_s: float
) -> None:
    """A process that is stopped or ending is not believed, whatever it has confirmed before."""
    key = owned_key(cast)
    workers(2**40)
    seen = timezone.now() - timedelta(seconds=silent_s)
    WorkerProcess.objects.update(last_seen_at=seen, **fields)
    confirmation = disabled(cast, key)
    assert (confirmation["confirmed"], confirmation["counted"], confirmation["complete"]) == (0, 1, False)
    (missing,) = confirmation["missing_workers"]
    assert (missing["node"], missing["pid"], missing["why"]) == ("node-a", 100, why)
    assert missing["closes_in_s"] == pytest.approx(closes_in_s, abs=1.5)
    assert confirmation["missing"] == [f"node-a pid 100 ({missing['detail']})"]


def test_the_bound_is_that_of_the_node_not_of_the_web(cast: Cast) -> None:
    """An agent that is set to 300 s goes on for so long, whatever this process thinks."""
    key = owned_key(cast)
    workers(1)
    Node.objects.update(max_staleness_s=300.0)
    seen = timezone.now() - timedelta(seconds=100)
    WorkerProcess.objects.update(last_seen_at=seen, max_staleness_s=300.0)
    confirmation = disabled(cast, key)
    assert (confirmation["counted"], confirmation["bound_s"]) == (1, 300.0)
    assert confirmation["missing_workers"][0]["closes_in_s"] == pytest.approx(200, abs=1.5)


def test_how_far_it_got_is_on_record(cast: Cast) -> None:
    key = owned_key(cast)
    workers(2**40, 1)
    generation = disabled(cast, key)["generation"]
    event = AuditEvent.objects.get(action="vault:data_plane:confirm")
    assert (event.target_id, event.generation, event.outcome) == (str(key.pk), generation, "FAILURE")
    assert event.detail["of"] == "cloudkeys:cloud_key:disable"
    assert (event.detail["confirmed"], event.detail["counted"]) == (1, 2)
    assert event.detail["missing"] == ["node-a pid 101 (has applied 1)"]
    assert event.actor_name


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
