"""Nodes and switches by API: what the data plane has applied, and how late it is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.cast import Cast, new_user
from vault.models import Node, WorkerProcess

PATH = "/api/v1/nodes"


def node(name: str, seconds_ago: float, *, applied: int = 0, gone: bool = False) -> Node:
    """A node with one worker, both last seen that long ago."""
    seen = timezone.now() - timedelta(seconds=seconds_ago)
    made = Node.objects.create(
        name=name,
        started_at=seen,
        last_seen_at=seen,
        deregistered_at=seen if gone else None,
        applied_generation=applied,
    )
    WorkerProcess.objects.create(
        node=made, pid=7, instance=name, last_seen_at=seen, applied_generation=applied
    )
    return made


@pytest.mark.parametrize(
    ("seconds", "gone", "state"),
    [
        (0, False, "SERVING"),
        (29, False, "SERVING"),
        (31, False, "LATE"),
        (61, False, "STALE"),
        (0, True, "GONE"),
    ],
)
def test_states(cast: Cast, seconds: float, gone: bool, state: str) -> None:
    node("xks-a", seconds, gone=gone)
    found = cast.api("auditor").get(PATH).json()["items"][0]
    assert found["state"] == state
    assert found["seconds_since_seen"] == pytest.approx(seconds, abs=2)
    assert found["max_staleness_s"] == 60.0


def test_generations(cast: Cast) -> None:
    node("xks-a", 0, applied=0)
    cast.api("owner").post(f"/api/v1/vaults/{cast.vault.pk}/block", {})
    WorkerProcess.objects.update(deregistered_at=None)
    found = cast.api("appliance").get(PATH).json()["items"][0]
    assert found["current_generation"] == 1
    assert found["workers"][0]["behind"] == 1


def test_who_belongs_to_no_vault_sees_none(cast: Cast, client: Any) -> None:
    client.force_login(new_user("stranger"))
    assert client.get(PATH).status_code == 403


def test_the_answer_of_a_switch_proves_how_far_it_got(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.api.vaults.wait_for_generation", lambda g: wait(g, timeout_s=0))
    from vault.generations import wait_for_generation as wait

    node("xks-a", 0, applied=1)
    node("xks-b", 0, applied=0)
    body = cast.api("owner").post(f"/api/v1/vaults/{cast.vault.pk}/block", {"reason": "Incident"}).json()
    confirmation = body["confirmation"]
    assert body["vault"]["blocked"] is True
    assert confirmation["generation"] == 1
    assert (confirmation["confirmed"], confirmation["counted"], confirmation["complete"]) == (1, 2, False)
    assert confirmation["missing"] == ["xks-b pid 7"]
    assert confirmation["bound_s"] == 60.0


def test_gone_ones_can_be_left_out(cast: Cast) -> None:
    node("xks-a", 0, gone=True)
    node("xks-b", 0)
    names = [item["name"] for item in cast.api("owner").get(PATH, gone="false").json()["items"]]
    assert names == ["xks-b"]
