"""The counter that orders what the data plane learns, and waiting until every worker process has learnt it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
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
class Confirmation:
    """How far a generation has got.

    `missing` names processes that may still serve the older state, for `bound_s` seconds at most.
    """

    generation: int
    confirmed: int
    counted: int
    milliseconds: int
    missing: tuple[str, ...]
    bound_s: float

    @property
    def complete(self) -> bool:
        """Whether every counted worker process has applied the generation."""
        return self.confirmed == self.counted


def counted_workers() -> list[WorkerProcess]:
    """Every worker process that might still be serving: seen within MAX_STALENESS plus a margin, not deregistered."""
    # The database's clock, as in the rows (xks/agent_registry.py): with this host's, one that runs ahead would leave
    # out workers that are still serving.
    since = Now() - timedelta(seconds=settings.KEYSTEAD_XKS_MAX_STALENESS + 5)
    return list(
        WorkerProcess.objects.filter(deregistered_at=None, last_seen_at__gte=since)
        .select_related("node")
        .order_by("registered_at")
    )


def wait_for_generation(generation: int, timeout_s: float = 2.0) -> Confirmation:
    """Wait until every counted worker has applied `generation`, `timeout_s` at most. Call outside any transaction."""
    began = time.monotonic()
    while True:
        workers = counted_workers()
        missing = tuple(f"{w.node.name} pid {w.pid}" for w in workers if w.applied_generation < generation)
        elapsed = time.monotonic() - began
        if not missing or elapsed >= timeout_s:
            return Confirmation(
                generation=generation,
                confirmed=len(workers) - len(missing),
                counted=len(workers),
                milliseconds=round(elapsed * 1000),
                missing=missing,
                bound_s=float(settings.KEYSTEAD_XKS_MAX_STALENESS),
            )
        time.sleep(POLL_S)
