"""Nodes and switches by API: what the data plane has applied, and how late it is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.cast import Cast, new_user
from vault.actors import Actor
from vault.models import AuditEvent, Node, WorkerProcess
from vault.services.nodes import tell_alarms, watch_nodes

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
    monkeypatch.setattr("vault.services.confirmations.wait_for_generation", lambda g: wait(g, timeout_s=0))
    from vault.generations import wait_for_generation as wait

    node("xks-a", 0, applied=1)
    node("xks-b", 0, applied=0)
    body = cast.api("owner").post(f"/api/v1/vaults/{cast.vault.pk}/block", {"reason": "Incident"}).json()
    confirmation = body["confirmation"]
    assert body["vault"]["blocked"] is True
    assert confirmation["generation"] == 1
    assert (confirmation["confirmed"], confirmation["counted"], confirmation["complete"]) == (1, 2, False)
    assert confirmation["missing"] == ["xks-b pid 7 (has not loaded its keys yet)"]
    assert confirmation["bound_s"] == 60.0


def test_gone_ones_can_be_left_out(cast: Cast) -> None:
    node("xks-a", 0, gone=True)
    node("xks-b", 0)
    names = [item["name"] for item in cast.api("owner").get(PATH, gone="false").json()["items"]]
    assert names == ["xks-b"]


def test_what_is_wrong_is_shown(cast: Cast) -> None:
    made = node("xks-a", 0)
    since = "2026-11-22T14:00:00Z"
    Node.objects.update(
        alarms=[{"code": "JOURNAL", "since": since, "detail": "pid 7: no space left"}],
        refused_mark="9:abc",
        refused_from=9,
        refused_generation=4,
        max_staleness_s=20.0,
    )
    shown = cast.api("auditor").get(f"{PATH}/{made.pk}").json()
    assert [(alarm["code"], alarm["detail"]) for alarm in shown["alarms"]] == [
        ("JOURNAL", "pid 7: no space left")
    ]
    assert shown["refused"] == {"held_generation": 9, "found_generation": 4}
    assert shown["max_staleness_s"] == 20.0


@pytest.mark.parametrize(("seconds", "codes"), [(9, []), (11, ["STALENESS_HALF"]), (21, ["STALENESS_OVER"])])
def test_silence_is_an_alarm_by_the_nodes_own_bound(cast: Cast, seconds: float, codes: list[str]) -> None:
    node("xks-a", seconds)
    Node.objects.update(max_staleness_s=20.0)
    shown = cast.api("auditor").get(PATH).json()["items"][0]
    assert [alarm["code"] for alarm in shown["alarms"]] == codes


def test_silence_is_told_once_and_gets_worse(cast: Cast) -> None:
    made = node("xks-a", 31)
    node("xks-b", 2)
    node("xks-c", 500, gone=True)
    worker = Actor.system("worker")
    assert [watch_nodes(worker), watch_nodes(worker)] == [1, 0]
    Node.objects.filter(pk=made.pk).update(last_seen_at=timezone.now() - timedelta(seconds=61))
    assert [watch_nodes(worker), watch_nodes(worker)] == [1, 0]
    told = AuditEvent.objects.filter(action="vault:node:alarm").order_by("sequence")
    assert [event.detail["code"] for event in told] == ["STALENESS_HALF", "STALENESS_OVER"]
    assert {event.target_name for event in told} == {"xks-a"}
    made.refresh_from_db()
    assert [alarm["code"] for alarm in made.alarms] == ["STALENESS_OVER"]
    tell_alarms(Actor.system("agent"), made, [])
    assert AuditEvent.objects.filter(action="vault:node:alarm_over").count() == 1


class TestAcceptRollback:
    """What an appliance admin accepts, and what an accepted mark is good for."""

    URL = f"{PATH}/accept-rollback"

    def refuse(self, made: Node, mark: str = "9:abc") -> None:
        Node.objects.filter(pk=made.pk).update(refused_mark=mark, refused_from=9, refused_generation=4)

    def test_all_that_refuse(self, cast: Cast) -> None:
        first, second, third = node("xks-a", 0), node("xks-b", 0), node("xks-c", 0)
        self.refuse(first)
        self.refuse(third, "8:def")
        answer = cast.api("appliance").post(self.URL, {"reason": "Backup of 13:00"})
        assert [item["name"] for item in answer.json()["items"]] == ["xks-a", "xks-c"]
        marks = dict(Node.objects.values_list("name", "accepted_mark"))
        assert marks == {"xks-a": "9:abc", "xks-b": "", "xks-c": "8:def"}
        events = AuditEvent.objects.filter(action="vault:node:accept_rollback")
        assert {(event.target_name, event.reason) for event in events} == {
            ("xks-a", "Backup of 13:00"),
            ("xks-c", "Backup of 13:00"),
        }
        assert second.accepted_mark == ""

    def test_one_of_them_and_nothing_left(self, cast: Cast) -> None:
        first, second = node("xks-a", 0), node("xks-b", 0)
        self.refuse(first)
        self.refuse(second)
        api = cast.api("appliance")
        assert api.post(self.URL, {"node": str(second.pk)}).status_code == 200
        assert Node.objects.get(name="xks-a").accepted_mark == ""
        again = api.post(self.URL, {"node": str(second.pk)})
        assert (again.status_code, again.json()["detail"]) == (409, "No node refuses the database.")
        missing = api.post(self.URL, {"node": "00000000-0000-4000-8000-000000000000"})
        assert missing.status_code == 404

    def test_by_command(self, cast: Cast, capsys: Any) -> None:
        self.refuse(node("xks-a", 0))
        call_command("xks_accept_rollback", "xks-a", reason="Failover", skip_checks=True)
        assert "xks-a may let go of generation 9" in capsys.readouterr().out
        with pytest.raises(CommandError, match="There is no node xks-z"):
            call_command("xks_accept_rollback", "xks-z", skip_checks=True)
        with pytest.raises(CommandError, match="No node refuses"):
            call_command("xks_accept_rollback", skip_checks=True)
