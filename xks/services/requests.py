"""Single requests to the XKS endpoint as the journals recorded them: searching them, and drawing their course."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.db.models import OuterRef, Q, QuerySet, Subquery, Sum
from django.utils import timezone

from cloudkeys.models import XksKeyStore
from vault.actors import Actor
from vault.models import Vault
from vault.permissions import Permission
from xks.journal_format import MAX_REQUEST_ID_BYTES, shorten
from xks.models import JournalChain, JournalShipment, Traffic, UsageHour, XksRequest
from xks.request_partitions import kept_from
from xks.traffic_buckets import percentile

MOST_RANGES: Final = 60
"""Stretches of hours that a search is narrowed to; with more of them it takes the whole from first to last."""
SPANS: Final = {"hour": (timedelta(hours=1), 60), "day": (timedelta(days=1), 3600)}
"""What a course goes back, and the seconds that one of its points stands for."""
_MOST_ALIKE: Final = 1000


def requests_of(actor: Actor, vault: Vault) -> QuerySet[XksRequest]:
    """Return a vault's recorded requests, each with the name of its node. Raises PermissionDenied."""
    actor.require(Permission.AUDIT_VIEW, vault)
    node = JournalChain.objects.filter(pk=OuterRef("chain_id")).values("node_name")[:1]
    return XksRequest.objects.filter(vault_id=vault.pk).annotate(node_name=Subquery(node))


def with_kms_request_id(rows: QuerySet[XksRequest], text: str) -> QuerySet[XksRequest]:
    """Those with a kmsRequestId. KMS asks again under the same one, so there may be several."""
    wanted = shorten(text, MAX_REQUEST_ID_BYTES)
    if connection.vendor == "sqlite":
        # Without statistics SQLite takes the index that gives the order, and reads the whole vault.
        found = XksRequest.objects.filter(kms_request_id=wanted).values_list("pk", flat=True)
        return rows.filter(pk__in=list(found[:_MOST_ALIKE]))
    return rows.filter(kms_request_id=wanted)


def with_principal(rows: QuerySet[XksRequest], arn: str) -> QuerySet[XksRequest]:
    """Those of a principal."""
    wanted = shorten(arn)
    return _in_hours(rows.filter(principal_arn=wanted), principal_arn=wanted)


def with_outcome(rows: QuerySet[XksRequest], outcomes: Iterable[str]) -> QuerySet[XksRequest]:
    """Those that ended so: OK or an errorName; "errors" stands for every one but OK."""
    wanted = set(outcomes)
    if "errors" in wanted:
        return rows if "OK" in wanted else _in_hours(rows.exclude(outcome="OK"), ~Q(outcome="OK"))
    if "OK" in wanted:
        return rows.filter(outcome__in=wanted)
    return _in_hours(rows.filter(outcome__in=wanted), outcome__in=wanted)


def _in_hours(rows: QuerySet[XksRequest], *conditions: Q, **which: Any) -> QuerySet[XksRequest]:
    """Narrow a search for something rare to the hours whose sums know it, so that an index of times serves it."""
    sums = UsageHour.objects.filter(*conditions, **which).filter(hour__gte=kept_from())
    ranges: list[tuple[datetime, datetime]] = []
    for hour in sums.order_by("hour").values_list("hour", flat=True).distinct():
        end = hour + timedelta(hours=1)
        if ranges and ranges[-1][1] == hour:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((hour, end))
    if not ranges:
        return rows.none()
    rows = rows.filter(at__gte=ranges[0][0], at__lt=ranges[-1][1])
    if 1 < len(ranges) <= MOST_RANGES:
        either = Q()
        for begin, end in ranges:
            either |= Q(at__gte=begin, at__lt=end)
        rows = rows.filter(either)
    return rows


@dataclass(frozen=True)
class Point:
    """One minute or hour. Microseconds; None where there was no request."""

    at: datetime
    requests: int
    errors: int
    p50_us: int | None
    p99_us: int | None


@dataclass(frozen=True)
class Course:
    """Requests over time, and all of it taken together. The last point is still going on."""

    span: str
    seconds: int
    points: list[Point]
    total: Point
    shipped_to: datetime | None
    """When the newest request that is counted was made. Nodes ship about every second."""


def traffic_of_store(actor: Actor, store_id: UUID, span: str = "hour") -> Course:
    """Return the course of one key store. Raises NotFound, PermissionDenied."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
    return course_of([store.pk], span)


def traffic_of_vault(actor: Actor, vault: Vault, span: str = "hour") -> Course:
    """Return the course of all key stores of a vault together. Raises PermissionDenied."""
    actor.require(Permission.XKS_STORES_VIEW, vault)
    return course_of(list(XksKeyStore.objects.filter(vault=vault).values_list("pk", flat=True)), span)


def course_of(stores: list[UUID], span: str, *, now: datetime | None = None) -> Course:
    """Return the course of these key stores over a span of SPANS; the caller has authorised it."""
    back, seconds = SPANS[span]
    now = now or timezone.now()
    last = int(now.timestamp()) // seconds * seconds
    first = last - int(back.total_seconds()) + seconds
    begin = datetime.fromtimestamp(first, UTC)
    rows = Traffic.objects.filter(span_s=seconds, store_id__in=stores, at__gte=begin, at__lte=now)
    counts: dict[datetime, Counter[int]] = defaultdict(Counter)
    errors: Counter[datetime] = Counter()
    for row in rows.values("at", "bucket").annotate(n=Sum("requests"), e=Sum("errors")):
        counts[row["at"]][row["bucket"]] += row["n"]
        errors[row["at"]] += row["e"]
    points = []
    whole: Counter[int] = Counter()
    for second in range(first, last + seconds, seconds):
        at = datetime.fromtimestamp(second, UTC)
        points.append(_point(at, counts[at], errors[at]))
        whole.update(counts[at])
    newest = (
        JournalShipment.objects.exclude(last_at=None).order_by("-last_at").values_list("last_at", flat=True)
    )
    return Course(span, seconds, points, _point(begin, whole, errors.total()), newest.first())


def _point(at: datetime, counts: Counter[int], errors: int) -> Point:
    return Point(at, counts.total(), errors, percentile(counts, 0.5), percentile(counts, 0.99))
