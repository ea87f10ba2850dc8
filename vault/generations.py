"""The counter that orders what the data plane learns, and waiting until every worker process has learnt it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from vault.models import Generation, GenerationChange, WorkerProcess

CHANNEL = "keystead_generation"
POLL_S = 0.01


def raise_generation(touched: Iterable[tuple[GenerationChange.Kind, UUID]]) -> int:
    """Raise the counter by one and log what changed. Call last: the row stays locked until commit."""
    if not Generation.objects.filter(pk=1).update(value=F("value") + 1):
        Generation.objects.get_or_create(pk=1, defaults={"value": 0})
        Generation.objects.filter(pk=1).update(value=F("value") + 1)
    value = Generation.objects.values_list("value", flat=True).get(pk=1)
    GenerationChange.objects.bulk_create(
        [GenerationChange(generation=value, kind=kind, object_id=object_id) for kind, object_id in touched]
    )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(value)])
    return value


def current_generation() -> int:
    """The committed value; 0 before the first change."""
    return Generation.objects.filter(pk=1).values_list("value", flat=True).first() or 0


@dataclass(frozen=True)
class Missing:
    """A worker process that has not confirmed, and may still serve the older state for a while."""

    node: str
    pid: int
    why: str
    """One of WHY."""
    detail: str
    """The reason in words."""
    last_seen_at: datetime
    closes_in_s: float
    """Seconds from now after which it refuses by itself, whatever becomes of it."""

    def __str__(self) -> str:
        return f"{self.node} pid {self.pid} ({self.detail})"


WHY = ("STALE", "STOPPED", "DRAINING", "STARTING", "REFUSING", "BEHIND")
"""STALE: no sign of life (partitioned, or its agent is). STOPPED: by SIGSTOP or a debugger. DRAINING: told to end and
not ended. STARTING: has not loaded anything. REFUSING: its agent refuses a database that went backwards. BEHIND:
everything else."""


@dataclass(frozen=True)
class Confirmation:
    """How far a generation has got.

    ``missing_workers`` are processes that may still serve the older state. ``bound_s``: so many seconds after the commit the last of
    them refuses by itself.
    """

    generation: int
    confirmed: int
    counted: int
    milliseconds: int
    missing_workers: tuple[Missing, ...]
    bound_s: float

    @property
    def complete(self) -> bool:
        """Whether every counted worker process has applied the generation."""
        return self.confirmed == self.counted

    @property
    def missing(self) -> tuple[str, ...]:
        """The missing ones in words: node, pid and why."""
        return tuple(map(str, self.missing_workers))


MARGIN_S = 5.0
"""Workers are counted for so much longer than they may serve."""

LATE_S = 3.0
"""Agents beat every second; a worker not seen for longer is out of reach."""

MOST_STALENESS_S = 86400
"""The most that KEYSTEAD_XKS_MAX_STALENESS may be on any node."""


def bound_of(worker: WorkerProcess) -> float:
    """Seconds for which a worker may serve without news: its agent's word, or this process's setting before there is one."""
    if worker.max_staleness_s is not None:
        return worker.max_staleness_s
    return float(settings.KEYSTEAD_XKS_MAX_STALENESS)


def counted_workers() -> list[WorkerProcess]:
    """Every worker process that might still be serving: seen within its own bound plus a margin, not deregistered.

    ``read_at`` of each is the database's clock at this moment.
    """
    # The database's clock, as in the rows (xks/agent_registry.py): with this host's, one that runs ahead would leave
    # out workers that are still serving.
    rows = (
        WorkerProcess.objects.filter(
            deregistered_at=None,
            last_seen_at__gte=Now() - timedelta(seconds=MOST_STALENESS_S + MARGIN_S),
        )
        .select_related("node")
        .annotate(read_at=Now())
        .order_by("registered_at")
    )
    return [row for row in rows if _age(row) <= bound_of(row) + MARGIN_S]


def _age(worker: WorkerProcess) -> float:
    """Seconds since the last sign of life, by the database's clock."""
    read_at: datetime = worker.read_at  # type: ignore[attr-defined] # annotated by counted_workers
    return max(0.0, (read_at - worker.last_seen_at).total_seconds())


def has_confirmed(worker: WorkerProcess, generation: int) -> bool:
    """Whether a worker answers from ``generation`` or a later one.

    One that is ending or stopped is taken at no word: it counts as missing until it has ended, or runs again.
    """
    ended = (WorkerProcess.State.DRAINING, WorkerProcess.State.STOPPED)
    return worker.applied_generation >= generation and worker.state not in ended


def _missing(worker: WorkerProcess, elapsed_s: float) -> Missing:
    age, bound = _age(worker), bound_of(worker)
    if age > min(LATE_S, bound / 2):
        since = worker.last_seen_at.astimezone(UTC).strftime("%H:%M:%S UTC")
        why, detail = "STALE", f"no sign of life since {since}, {age:.0f} s ago"
    elif worker.state == WorkerProcess.State.STOPPED:
        why, detail = "STOPPED", "the process is stopped"
    elif worker.state == WorkerProcess.State.DRAINING:
        why, detail = "DRAINING", "told to end, and has not ended yet"
    elif worker.node.refused_mark:
        why, detail = "REFUSING", "its node refuses a database that went backwards"
    elif worker.applied_generation == 0 or worker.state == WorkerProcess.State.STARTING:
        why, detail = "STARTING", "has not loaded its keys yet"
    else:
        why, detail = "BEHIND", f"has applied {worker.applied_generation}"
    # No lease that vouches for the older state was issued after the commit, nor after the row was last written.
    closes_in_s = max(0.0, min(bound - elapsed_s, bound - age))
    return Missing(worker.node.name, worker.pid, why, detail, worker.last_seen_at, round(closes_in_s, 1))


def wait_for_generation(generation: int, timeout_s: float = 2.0) -> Confirmation:
    """Wait until every counted worker has applied `generation`, `timeout_s` at most. Call outside any transaction."""
    began = time.monotonic()
    while True:
        workers = counted_workers()
        elapsed = time.monotonic() - began
        missing = tuple(_missing(w, elapsed) for w in workers if not has_confirmed(w, generation))
        if not missing or elapsed >= timeout_s:
            bounds = [bound_of(worker) for worker in workers]
            return Confirmation(
                generation=generation,
                confirmed=len(workers) - len(missing),
                counted=len(workers),
                milliseconds=round(elapsed * 1000),
                missing_workers=missing,
                bound_s=max(bounds, default=float(settings.KEYSTEAD_XKS_MAX_STALENESS)),
            )
        time.sleep(POLL_S)
