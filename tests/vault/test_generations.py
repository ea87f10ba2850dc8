"""Who is counted by the kill switch."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from vault.generations import counted_workers
from vault.models import Node, WorkerProcess


@pytest.mark.django_db
def test_a_host_whose_clock_runs_ahead_leaves_out_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows bear the database's time (xks/agent_registry.py), so only that clock may judge them."""
    node = Node.objects.create(name="node-a", started_at=Now(), last_seen_at=Now())
    serving = WorkerProcess.objects.create(node=node, pid=1, instance="serving", last_seen_at=Now())
    ended = datetime(2020, 1, 1, tzinfo=UTC)
    WorkerProcess.objects.create(node=node, pid=2, instance="ended", last_seen_at=ended)
    monkeypatch.setattr(timezone, "now", lambda: datetime(2090, 1, 1, tzinfo=UTC))
    assert [worker.pk for worker in counted_workers()] == [serving.pk]
