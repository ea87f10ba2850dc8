"""How long single records stay: a partition for each day on PostgreSQL, rows deleted in portions on SQLite.

Partitions are made ahead, and when a record of another day comes: a node that was cut off for days brings old ones.
What has been dropped is told by RequestStore.kept_from, which the verification knows from a seal as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction

from xks.audit_seals import add_seal
from xks.models import RequestStore, Traffic, XksRequest

TABLE = XksRequest._meta.db_table
DAYS_AHEAD = 3
LOOK_EVERY = timedelta(minutes=5)
MINUTES_KEPT = timedelta(days=2)
PORTION = 2000
"""Rows that one transaction deletes on SQLite, whose writers wait for each other."""
_LOCK = 0x6B73_7265_7131  # any number that nobody else takes: makers of partitions wait for each other
_LOCK_TIMEOUT = "2s"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def kept_from() -> datetime:
    """Return the moment from which single records are kept."""
    found = RequestStore.objects.filter(pk=1).values_list("kept_from", flat=True).first()
    return found or _BEGINNING


def day_of(at: datetime) -> date:
    """Return the day (UTC) that a moment belongs to."""
    return at.astimezone(UTC).date()


def partition_name(day: date) -> str:
    """Return the name of a day's partition."""
    return f"{TABLE}_{day:%Y%m%d}"


def partitions() -> dict[date, str]:
    """Return the partitions that there are (PostgreSQL), by day."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)",
            [TABLE],
        )
        names = [row[0] for row in cursor.fetchall()]
    return {datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date(): name for name in names}


def ensure_partitions(days: Iterable[date]) -> int:
    """Make the partitions of these days where they are missing; return how many were made. Nothing on SQLite."""
    wanted = set(days)
    if connection.vendor != "postgresql" or not wanted:
        return 0
    missing = wanted - partitions().keys()
    if not missing:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        # Taken only while nobody reads or writes the table: do not make others wait behind a long query.
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        missing -= partitions().keys()
        for day in sorted(missing):
            begin, end = f"{day} 00:00+00", f"{day + timedelta(days=1)} 00:00+00"
            name = partition_name(day)
            # Filled in by ATTACH, which unlike CREATE ... PARTITION OF does not lock out readers and writers of the rest.
            cursor.execute(f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING DEFAULTS)")
            cursor.execute(
                f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ('{begin}') TO ('{end}')"
            )
    return len(missing)


def keep_store(now: datetime, keep: timedelta) -> None:
    """Make partitions ahead and drop what is older than ``keep``; does something every few minutes only.

    Any number of agents may call it; one of them does it.

    Raises:
        RootKeyError: what is dropped cannot be named in a seal, so nothing is.
        django.db.Error: the database does not answer, or somebody reads the oldest day just now.
    """
    today = day_of(now)
    RequestStore.objects.get_or_create(pk=1, defaults={"kept_from": _BEGINNING})
    taken = RequestStore.objects.filter(pk=1).exclude(looked_at__gt=now - LOOK_EVERY).update(looked_at=now)
    if not taken:
        return
    ensure_partitions(today + timedelta(days=number) for number in range(-1, DAYS_AHEAD + 1))
    _drop_before(datetime.combine(day_of(now - keep), time(), UTC))
    Traffic.objects.filter(span_s=60, at__lt=now - MINUTES_KEPT).delete()


def _drop_before(bound: datetime) -> None:
    if bound > kept_from():
        with transaction.atomic():
            # Said and signed first: a store with less in it than was said is no surprise, the other way round is one.
            if RequestStore.objects.filter(pk=1, kept_from__lt=bound).update(kept_from=bound):
                add_seal({"kind": "store", "kept_from": bound.isoformat()})
    bound = kept_from()
    if connection.vendor == "postgresql":
        for day, name in sorted(partitions().items()):
            if day < day_of(bound):
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                    cursor.execute(f"DROP TABLE {name}")
        return
    while True:
        old = XksRequest.objects.filter(at__lt=bound).order_by("at").values("pk")[:PORTION]
        if XksRequest.objects.filter(pk__in=old).delete()[0] < PORTION:
            return
