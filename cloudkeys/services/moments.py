"""Counting rows by local day without truncating each time in the database."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Count, QuerySet, TextField
from django.db.models.functions import Cast, Substr, TruncHour, TruncMinute

_HOUR = timedelta(hours=1)


def count_by_day(rows: QuerySet[Any], name: str, tz: ZoneInfo) -> Counter[date]:
    """How many rows have their time `name` on which day of the zone. One query.

    Grouped by the UTC hour, from which local days follow; by the minute in zones that are no whole hours off. PostgreSQL
    truncates times itself; SQLite keeps them as text, and would truncate each in a function of Python.
    """
    year = datetime.now(UTC).year
    offsets = (
        datetime(year + ahead, month, 1, tzinfo=tz).utcoffset() for ahead in (-1, 0, 1) for month in (1, 7)
    )
    whole = all((offset or timedelta()) % _HOUR == timedelta() for offset in offsets)
    if connection.vendor == "postgresql":
        moments = rows.values_list((TruncHour if whole else TruncMinute)(name, tzinfo=UTC))
    else:
        moments = rows.values_list(Substr(Cast(name, TextField()), 1, 13 if whole else 16))
    days: Counter[date] = Counter()
    for moment, count in moments.order_by().annotate(count=Count("*")):
        at = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment).replace(tzinfo=UTC)
        days[at.astimezone(tz).date()] += count
    return days
