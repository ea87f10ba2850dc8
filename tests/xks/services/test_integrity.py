"""The state of the record: verified about every hour, kept, told, and loud when it does not hold."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.test import Client
from django.utils import timezone

from tests.cast import Cast, new_user
from tests.xks.test_audit_check import World
from vault.actors import Actor
from vault.models import AuditEvent, Node
from xks.models import AuditIntegrity, AuditKey, AuditSeal, JournalChain, UsageHour
from xks.services.integrity import in_turn, integrity_of, verify_now, verify_when_due
from xks.services.journals import journals_of_nodes, seen_nodes, standing_of

pytestmark = pytest.mark.django_db
BEAT = Actor.system("worker", "keystead schedule")


@pytest.fixture
def world(cast: Cast, data_dir: Path) -> World:
    made = World(data_dir)
    Node.objects.create(name="node-1", started_at=timezone.now(), last_seen_at=timezone.now())
    return made


def told_events() -> list[str]:
    return list(
        AuditEvent.objects.filter(action="vault:audit:verify")
        .order_by("sequence")
        .values_list("outcome", flat=True)
    )


def test_unknown_then_holds_then_broken_then_holds(cast: Cast, world: World) -> None:
    assert integrity_of(cast.actor("auditor")).state == "UNKNOWN"
    assert verify_when_due(BEAT, "node-1", world.journal) is True
    known = integrity_of(cast.actor("auditor"))
    assert (known.state, known.findings, known.stored) == ("HOLDS", 0, 31)
    assert verify_when_due(BEAT, "node-1", world.journal) is None  # not due
    UsageHour.objects.update(count=F("count") + 1)
    assert verify_now(BEAT, "node-1", world.journal) is False
    assert verify_now(BEAT, "node-1", world.journal) is False
    broken = integrity_of(cast.actor("auditor"))
    assert (broken.state, broken.findings, broken.texts) == ("BROKEN", 1, [])
    assert broken.held_at == known.held_at
    assert "sums of" in integrity_of(cast.actor("appliance")).texts[0]
    UsageHour.objects.update(count=F("count") - 1)
    assert verify_now(BEAT, "node-1", world.journal) is True
    assert told_events() == ["FAILURE", "SUCCESS"]
    AuditIntegrity.objects.update(checked_at=timezone.now() - timedelta(hours=7))
    assert integrity_of(cast.actor("auditor")).state == "OVERDUE"


def test_seals_cut_since_the_last_look_show_without_anybody_s_help(world: World) -> None:
    verify_now(BEAT, "node-1", world.journal)
    last = AuditKey.objects.get().seals
    AuditSeal.objects.filter(number=last).delete()
    AuditKey.objects.update(seals=last - 1)
    assert verify_now(BEAT, "node-1", world.journal) is False
    assert verify_now(BEAT, "node-1", world.journal) is False  # it goes on showing


def test_whoever_sees_no_audit_events_sees_no_state(world: World, client: Client) -> None:
    client.force_login(new_user("stranger"))
    assert client.get("/api/v1/audit-integrity").status_code == 403
    assert client.get("/api/v1/nodes/journal").status_code == 403


def test_each_older_day_has_its_turn() -> None:
    begun = timezone.now() - timedelta(days=17)
    today = timezone.now()
    assert sum(in_turn(today + timedelta(days=n))(begun) for n in range(30)) == 1
    assert in_turn(today)(today - timedelta(hours=47))


def test_how_journals_stand(cast: Cast, world: World) -> None:
    rows = {row.pk: standing_of(row, seen_nodes()) for row in journals_of_nodes(cast.actor("auditor"))}
    assert rows[world.closed.pk].state == rows[world.killed.pk].state == "COMPLETE"
    opened = rows[world.open.pk]
    assert (opened.state, opened.lag_s, opened.shipped_entries) == ("OPEN", 0.0, 6)
    Node.objects.update(last_seen_at=timezone.now() - timedelta(hours=2))
    rows = {row.pk: standing_of(row, seen_nodes()) for row in journals_of_nodes(cast.actor("auditor"))}
    assert rows[world.open.pk].state == "GAP"
    JournalChain.objects.filter(pk=world.closed.pk).update(end="LOST")
    assert standing_of(JournalChain.objects.get(pk=world.closed.pk), set()).state == "GAP"
