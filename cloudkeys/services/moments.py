"""Counting rows by local day without truncating each time in the database."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Count, QuerySet, TextField
from django.db.models.functions import Cast, Substr, TruncHour, TruncMinute

from cloudkeys.models import CloudKey
from vault.models import Vault

_HOUR = timedelta(hours=1)
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
# Each day is a range of the index (vault, time, kind, state): nothing is grouped or sorted, however many keys there are.
_DUE = """
WITH day (number, since, until) AS (VALUES {days})
SELECT number, (
    SELECT count(*) FROM cloudkeys_cloudkey
    WHERE vault_id = %s AND kind = %s AND state = %s AND {time} >= since AND {time} < until{still}
) FROM day
"""


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


def keys_due_by_day(
    vault: Vault, name: Literal["next_rotation_at", "expires_at"], today: date, days: int, tz: ZoneInfo
) -> Counter[date]:
    """How many enabled CloudKeys rotate or end on which day of the zone, from today on; what is overdue counts for today. One query.

    `days`: how many days after today are counted.
    """
    until = [
        datetime.combine(today + timedelta(days=number + 1), datetime.min.time(), tzinfo=tz)
        for number in range(days + 1)
    ]
    since = [_BEFORE_ALL, *until]
    times = [
        connection.ops.adapt_datetimefield_value(each)
        for pair in zip(since, until, strict=False)
        for each in pair
    ]
    statement = _DUE.format(
        days=", ".join(f"({number}, %s, %s)" for number in range(days + 1)),
        time=connection.ops.quote_name(name),
        still=" AND expired_at IS NULL" if name == "expires_at" else "",
    )
    vault_id = CloudKey._meta.get_field("vault").get_db_prep_value(vault.pk, connection)
    with connection.cursor() as cursor:
        cursor.execute(statement, [*times, vault_id, CloudKey.Kind.USER.value, CloudKey.State.ENABLED.value])
        return Counter(
            {today + timedelta(days=number): count for number, count in cursor.fetchall() if count}
        )
