"""What the journal tells of a key's use: when, how often, by whom, through what; and what follows from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncDay
from django.utils import timezone

from cloudkeys.models import CloudKey
from vault.actors import Actor
from vault.models import Node
from vault.permissions import Permission
from xks.models import JournalChain, UsageHour

USES = ("encrypt", "decrypt")
WINDOWS = (1, 7, 30, 90)
"""Days back for which the blast radius is told."""
MOST_PRINCIPALS = 50
ENOUGH_DAYS = 90
"""Less history than this says nothing about a key that was seen to encrypt."""
NODE_LOST_AFTER = timedelta(hours=1)
"""A node not seen for longer may have taken records with it."""


@dataclass(frozen=True)
class Deletion:
    """Whether a key may be deleted, as far as its recorded use can tell.

    ``answer``: NO (used of late), NOT_KNOWN (too little history, or a part of it is lost), UNUSED (no use for
    ENOUGH_DAYS, but data may lie under it), YES (nothing was ever encrypted with it, recorded from its first day).
    """

    answer: str
    reasons: list[str]
    history_since: datetime | None
    gaps: int


def usage_of(actor: Actor, cloud_key_id: UUID, *, days: int = 30) -> dict[str, Any]:
    """Return the use of a CloudKey over so many days, its blast radius, and whether it may be deleted.

    Raises NotFound, PermissionDenied.
    """
    key: CloudKey = actor.fetch(CloudKey, cloud_key_id, Permission.CLOUD_KEYS_VIEW)
    now = timezone.now()
    rows = UsageHour.objects.filter(key_id=str(key.pk), operation__in=USES)
    used = rows.filter(outcome="OK")
    last = {row["operation"]: row["last"] for row in used.values("operation").annotate(last=Max("last_at"))}
    recent = rows.filter(hour__gte=now - timedelta(days=days))
    return {
        "cloud_key": key.pk,
        "days": days,
        "last_encrypt_at": last.get("encrypt"),
        "last_decrypt_at": last.get("decrypt"),
        "by_day": _by_day(recent),
        "by_day_and_service": _by_day_and_service(recent.filter(outcome="OK")),
        "by_service": _by(recent.filter(outcome="OK"), "kms_via_service"),
        "by_principal": _by(recent.filter(outcome="OK"), "principal_arn")[:MOST_PRINCIPALS],
        "blast_radius": [_radius(used, now, window) for window in WINDOWS],
        "deletion": safe_to_delete(key, now),
    }


def _by_day(rows: QuerySet[UsageHour]) -> list[dict[str, Any]]:
    days: dict[datetime, dict[str, int]] = defaultdict(lambda: {"encrypt": 0, "decrypt": 0, "refused": 0})
    for row in (
        rows.annotate(day=TruncDay("hour")).values("day", "operation", "outcome").annotate(sum=Sum("count"))
    ):
        what = row["operation"] if row["outcome"] == "OK" else "refused"
        days[row["day"]][what] += row["sum"]
    return [{"day": day.date(), **days[day]} for day in sorted(days)]


def _by_day_and_service(rows: QuerySet[UsageHour]) -> list[dict[str, Any]]:
    found = (
        rows.annotate(day=TruncDay("hour"))
        .values("day", "kms_via_service")
        .annotate(sum=Sum("count"))
        .order_by("day", "kms_via_service")
    )
    return [{"day": row["day"].date(), "name": row["kms_via_service"], "uses": row["sum"]} for row in found]


def _by(rows: QuerySet[UsageHour], column: str) -> list[dict[str, Any]]:
    sums: dict[str, dict[str, Any]] = {}
    found = rows.values(column, "operation").annotate(sum=Sum("count"), last=Max("last_at"))
    for row in found:
        one = sums.setdefault(
            row[column], {"name": row[column], "encrypt": 0, "decrypt": 0, "last_at": row["last"]}
        )
        one[row["operation"]] += row["sum"]
        one["last_at"] = max(one["last_at"], row["last"])
    return sorted(sums.values(), key=lambda one: (-one["encrypt"] - one["decrypt"], one["name"]))


def _radius(used: QuerySet[UsageHour], now: datetime, days: int) -> dict[str, Any]:
    rows = used.filter(last_at__gte=now - timedelta(days=days))
    services: dict[str, set[str]] = defaultdict(set)
    for service, principal in rows.values_list("kms_via_service", "principal_arn").distinct():
        services[service].add(principal)
    principals = set().union(*services.values())
    return {
        "days": days,
        "principals": len(principals),
        "services": [{"name": name, "principals": len(services[name])} for name in sorted(services)],
        "uses": rows.aggregate(sum=Sum("count"))["sum"] or 0,
    }


def safe_to_delete(key: CloudKey, now: datetime) -> Deletion:
    """Say whether a key's recorded use speaks against deleting it; YES only with its whole life on record."""
    since = JournalChain.objects.aggregate(first=Min("started_at"))["first"]
    gaps = _gaps(key.created_at, now)
    used = UsageHour.objects.filter(key_id=str(key.pk), operation__in=USES, outcome="OK")
    last = used.aggregate(last=Max("last_at"))["last"]
    encrypted = used.filter(operation="encrypt").exists()
    if last is not None and last >= now - timedelta(days=ENOUGH_DAYS):
        return Deletion("NO", [f"It was used at {last.isoformat(timespec='seconds')}."], since, gaps)
    if since is None:
        return Deletion("NOT_KNOWN", ["No use of any key has been recorded yet."], None, gaps)
    if gaps:
        return Deletion(
            "NOT_KNOWN",
            [f"The records of {gaps} worker processes of its time are lost or damaged."],
            since,
            gaps,
        )
    whole_life = since <= key.created_at and key.origin == CloudKey.Origin.GENERATED
    if whole_life and not encrypted and last is None:
        return Deletion(
            "YES", ["Its whole life is on record, and nothing was ever encrypted with it."], since, 0
        )
    if since > now - timedelta(days=ENOUGH_DAYS):
        held = (now - since).days
        return Deletion(
            "NOT_KNOWN", [f"Uses are on record for {held} days; {ENOUGH_DAYS} are needed."], since, 0
        )
    reasons = [f"No use for {ENOUGH_DAYS} days."]
    reasons.append(
        "Data that it encrypted may still lie somewhere: disable it first, and see who notices."
        if encrypted
        else "What was encrypted with it before uses were recorded is not known."
    )
    return Deletion("UNUSED", reasons, since, 0)


def _gaps(since: datetime, now: datetime) -> int:
    """Count journals of a time whose records are not, or not all, in the sums and may never be."""
    chains = JournalChain.objects.filter(Q(ended_at=None) | Q(ended_at__gte=since))
    bad = Q(end__in=(JournalChain.End.LOST, JournalChain.End.DAMAGED))
    seen = Node.objects.filter(last_seen_at__gte=now - NODE_LOST_AFTER).values("name")
    return chains.filter(bad | (Q(ended_at=None) & ~Q(node_name__in=seen))).count()
