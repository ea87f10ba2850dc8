"""Recorded use of many CloudKeys at once, for the lists and bulk acts of the room below (cloudkeys/services/uses.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import CharField, Exists, F, Func, Max, Min, OuterRef, Q, Sum
from django.utils import timezone

from cloudkeys.services.uses import Reach
from xks.models import JournalChain, UsageHour
from xks.services.usage import USES

FEW_KEYS = 200
"""Up to so many keys a week is summed up, above it a day: the hourly rows of thousands of keys are many."""


class UuidText(Func):
    """A UUID column as text with hyphens, as UsageHour spells keys; SQLite stores it as 32 digits."""

    output_field: ClassVar[Any] = CharField()
    template = "CAST(%(expressions)s AS varchar)"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, Any]:
        """By cutting the digits in five."""
        column, params = compiler.compile(self.source_expressions[0])
        cuts = " || '-' || ".join(
            f"substr({column}, {at}, {size})" for at, size in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        )
        return f"({cuts})", tuple(params) * 5


class RecordedUses:
    """Reads the hourly sums. Ranges grow from the last day backwards, because a key in use is found in the first."""

    _RANGES: ClassVar[tuple[timedelta | None, ...]] = (timedelta(days=1), timedelta(days=30), None)

    def last_used(self, keys: Iterable[UUID]) -> Mapping[UUID, datetime]:
        """At most three queries."""
        wanted = {str(key): key for key in keys}
        found: dict[UUID, datetime] = {}
        now = timezone.now()
        for length in self._RANGES:
            if not wanted:
                break
            rows = UsageHour.objects.filter(key_id__in=list(wanted), outcome="OK", operation__in=USES)
            if length is not None:
                rows = rows.filter(hour__gte=now - length)
            for key, last in rows.values_list("key_id").annotate(last=Max("last_at")).order_by():
                found[wanted.pop(key)] = last
        return found

    def unused_since(self, since: datetime) -> Q:
        """NOT EXISTS on the index of keys and hours."""
        uses = UsageHour.objects.filter(
            key_id=UuidText(OuterRef("pk")), hour__gte=since, outcome="OK", operation__in=USES
        )
        return Q(~Exists(uses), created_at__lte=since)

    def reach(self, keys: Iterable[UUID], now: datetime) -> Reach:
        """One query."""
        texts = [str(key) for key in keys]
        days = 7 if len(texts) <= FEW_KEYS else 1
        rows = UsageHour.objects.filter(
            key_id__in=texts, hour__gte=now - timedelta(days=days), outcome="OK", operation__in=USES
        )
        services: dict[str, set[str]] = defaultdict(set)
        used: set[str] = set()
        uses, last = 0, None
        found = rows.values_list("key_id", "kms_via_service", "principal_arn").order_by()
        for key, service, principal, count, at in found.annotate(sum=Sum("count"), last=Max(F("last_at"))):
            services[service].add(principal)
            used.add(key)
            uses += count
            last = at if last is None or at > last else last
        principals = set().union(*services.values())
        ranked = sorted(
            ((name, len(who)) for name, who in services.items()), key=lambda one: (-one[1], one[0])
        )
        return Reach(days, len(used), uses, len(principals), tuple(ranked), last)

    def known_since(self) -> datetime | None:
        """The first journal's beginning."""
        first: datetime | None = JournalChain.objects.aggregate(first=Min("started_at"))["first"]
        return first
