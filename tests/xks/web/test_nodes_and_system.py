"""Nodes and System, tried by each of the cast, in good and in bad times."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from vault.models import AuditEvent, Node, WorkerProcess
from xks.models import AuditIntegrity, JournalChain

NODES, SYSTEM = "/appliance/nodes/", "/appliance/system/"


def make_node(name: str = "xks-a", age_s: float = 0.5, workers: int = 2, **more: Any) -> Node:
    now = timezone.now()
    seen = now - timedelta(seconds=age_s)
    node = Node.objects.create(
        name=name, software_version="0.1.0", started_at=now, last_seen_at=seen, max_staleness_s=60, **more
    )
    for number in range(workers):
        WorkerProcess.objects.create(
            node=node, pid=4700 + number, instance=f"{name}-{number}", last_seen_at=seen, max_staleness_s=60
        )
    return node


@pytest.mark.parametrize("who", WHO)
def test_only_the_appliance_admin_sees_them(cast: Cast, who: str) -> None:
    browser, node = Browser(cast, who), make_node()
    expected = {"appliance": 200, "anonymous": 302}.get(who, 404)
    for url in (NODES, SYSTEM, reverse("node-accept-rollback", args=[node.pk]), reverse("system-test-mail")):
        assert browser.get(url).status_code == expected, url


def test_no_node(cast: Cast) -> None:
    assert "Nobody answers AWS" in text_of(Browser(cast, "appliance").get(NODES))


def test_a_node_that_is_well(cast: Cast) -> None:
    ends = (timezone.now() + timedelta(days=90)).isoformat()
    make_node(certificate={"source": "installed", "serial": "3b9aca07", "not_after": ends, "trouble": ""})
    words = text_of(Browser(cast, "appliance").get(NODES))
    for part in (
        "The one node is well",
        "xks-a Serving",
        "refuses by itself after 1 minute",
        "3b9aca07 Valid",
        "pid 4701",
    ):
        assert part in words, part
    assert "Accept rollback" not in words


def test_nodes_that_are_not(cast: Cast) -> None:
    make_node("quiet", age_s=40)
    make_node("silent", age_s=90)
    make_node(
        "full", alarms=[{"code": "JOURNAL", "since": "2026-11-22T10:00:00Z", "detail": "No space left."}]
    )
    make_node("empty", workers=0)
    make_node("left", deregistered_at=timezone.now())
    JournalChain.objects.create(node_name="burnt", process="p1", end="LOST", shipped=True)
    now = timezone.now()
    late = JournalChain.objects.create(
        node_name="full", process="p2", anchor_segment=1, anchor_sequence=9, anchored_at=now
    )
    JournalChain.objects.filter(pk=late.pk).update(started_at=now - timedelta(minutes=5))
    answer = Browser(cast, "appliance").get(NODES)
    words = text_of(answer)
    for part in (
        "3 nodes need you",
        "Half of the time has passed",
        "its bound of 1 minute is over: it refuses",
        "A worker of the node cannot write its journal",
        "See whether its disk is full or fails.",
        "5 minutes of it are on the node alone",
        "No worker process runs.",
        "1 signed off",
        "Of the journals of burnt something is lost",
    ):
        assert part in words, part


def test_the_part_refreshes_itself_alone(cast: Cast) -> None:
    make_node()
    part = Browser(cast, "appliance").get(NODES, target="nodes").content.decode()
    assert "<html" not in part
    assert f'hx-get="{NODES}"' in part


def test_a_rollback_is_accepted_with_the_nodes_name(cast: Cast) -> None:
    alarm = {"code": "GENERATION_WENT_BACK", "since": "2026-11-22T10:00:00Z", "detail": ""}
    node = make_node(refused_mark="m", refused_from=118, refused_generation=97, alarms=[alarm])
    admin, url = Browser(cast, "appliance"), reverse("node-accept-rollback", args=[node.pk])
    assert url in admin.get(NODES).content.decode()
    asked = text_of(admin.get(url))
    assert "The node holds generation 118; the database is at 97. Between them lie 21 changes" in asked
    assert "revoked in the lost part serve again" in asked
    assert admin.send(url, reason="x", typed_name="other").status_code == 422
    assert admin.send(url, reason="", typed_name="xks-a").status_code == 422
    node.refresh_from_db()
    assert node.accepted_mark == ""
    assert admin.send(url, reason="Restored the backup", typed_name="xks-a").status_code == 303
    node.refresh_from_db()
    assert node.accepted_mark == "m"
    assert AuditEvent.objects.get(action__contains="rollback").reason == "Restored the backup"
    words = text_of(admin.get(NODES))
    assert "The rollback was accepted" in words
    assert "Accept rollback" not in words
    assert admin.send(url, reason="again", typed_name="xks-a").status_code == 409


def test_nodes_ask_as_often_however_many_there_are(cast: Cast) -> None:
    admin = Browser(cast, "appliance")

    def count() -> int:
        admin.get(NODES)
        with CaptureQueriesContext(connection) as queries:
            admin.get(NODES)
        return len(queries)

    for number in range(3):
        make_node(f"n{number}")
        JournalChain.objects.create(node_name=f"n{number}", process="p")
    few = count()
    for number in range(3, 30):
        make_node(f"n{number}")
        JournalChain.objects.create(node_name=f"n{number}", process="p")
    assert count() == few
    assert few < 14


def test_system_says_what_to_do(cast: Cast) -> None:
    words = text_of(Browser(cast, "appliance").get(SYSTEM))
    for part in (
        "Database",
        "No backup is on record.",
        "Run keystead backup, by a timer",
        "It was not verified yet.",
        "Nothing is sent to a SIEM.",
        "Set KEYSTEAD_MAIL_URL",
        "Django",
    ):
        assert part in words, part
    part = Browser(cast, "appliance").get(SYSTEM, target="parts").content.decode()
    assert "<html" not in part


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"holds": True, "age": 0}, "Holds"),
        ({"holds": True, "age": 8}, "longer ago than it should be"),
        ({"holds": False, "age": 0, "findings": ["seal 7 is not signed"]}, "seal 7 is not signed"),
        ({"holds": True, "age": 0, "gaps": ["node burnt"]}, "1 gap: journals that were lost"),
    ],
)
def test_the_record(cast: Cast, values: dict[str, Any], state: str) -> None:
    row = AuditIntegrity(
        pk=1, checked_at=timezone.now() - timedelta(hours=values["age"]), holds=values["holds"]
    )
    row.findings, row.gaps = values.get("findings", []), values.get("gaps", [])
    row.save()
    words = text_of(Browser(cast, "appliance").get(SYSTEM))
    if state != "Holds":
        assert state in words
    else:
        assert "The record is what was written." in words


def test_the_siem_is_named(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSTEAD_SIEM_URL", "syslog+tls://siem.example.com:6514")
    assert "to siem.example.com:6514" in text_of(Browser(cast, "appliance").get(SYSTEM))


def test_a_test_mail(cast: Cast, settings: Any) -> None:
    admin, url = Browser(cast, "appliance"), reverse("system-test-mail")
    refused = admin.send(url)
    assert refused.status_code == 409
    assert "No mail server is set up." in text_of(refused)
    settings.MAIL_CONFIGURED = True
    assert admin.send(url).status_code == 303
    assert [message.to for message in mail.outbox] == [["appliance@example.com"]]
    assert "Look whether it arrives" in text_of(admin.get(SYSTEM))
