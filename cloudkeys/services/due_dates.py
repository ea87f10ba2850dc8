"""Dates that follow from schedules: kept on each CloudKey for sorting, recomputed with what they follow from."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import F, QuerySet
from django.db.models.functions import TruncDate

from cloudkeys.models import CloudKey, KeySet
from cloudkeys.schedules import Expiration, Schedule, parse_expiration, parse_schedule


def effective_schedule(key: CloudKey) -> Schedule | None:
    """The key's own rotation schedule, or its key set's when it has none of its own."""
    return parse_schedule(
        key.rotation_schedule if key.rotation_schedule is not None else key.key_set.rotation_schedule
    )


def effective_expiration(key: CloudKey) -> Expiration | None:
    """The key's own expiration, or its key set's."""
    return parse_expiration(key.expiration if key.expiration is not None else key.key_set.expiration)


def lock_schedules(key_set_id: UUID) -> None:
    """Keep a key set's schedule as it is until the transaction ends. Call before the key's own row is locked.

    `spread_schedule` takes the same lock first: a new schedule and a key whose date is being set take turns.
    """
    KeySet.objects.select_for_update().get(pk=key_set_id)


def set_due_dates(key: CloudKey) -> None:
    """Set next_rotation_at and expires_at on an unsaved or locked row from what rules it now (see lock_schedules)."""
    schedule = effective_schedule(key)
    rotates = schedule is not None and key.retired_at is None and key.kind == CloudKey.Kind.USER
    key.next_rotation_at = schedule.next_after(key.rotated_at) if schedule is not None and rotates else None
    expiration = effective_expiration(key)
    ends = expiration is not None and key.kind == CloudKey.Kind.USER
    key.expires_at = expiration.expires_at(key.created_at) if expiration is not None and ends else None


def spread_schedule(key_set: KeySet) -> int:
    """Give every key that inherits its rotation the dates of the set's schedule; the number of keys that follow.

    One statement for each local day on which a key began its version, however many keys there are.
    """
    keys = _inheriting(key_set).filter(rotation_schedule__isnull=True, retired_at=None)
    schedule = parse_schedule(key_set.rotation_schedule)
    if schedule is None:
        return keys.update(next_rotation_at=None)
    zone = ZoneInfo(schedule.time_zone)
    days = (
        keys.annotate(began=TruncDate("rotated_at", tzinfo=zone))
        .values_list("began", flat=True)
        .order_by()
        .distinct()
    )
    count = 0
    for day in list(days):
        midnight = datetime.combine(day, time.min, tzinfo=zone)
        next_midnight = datetime.combine(day + timedelta(days=1), time.min, tzinfo=zone)
        count += keys.filter(rotated_at__gte=midnight, rotated_at__lt=next_midnight).update(
            next_rotation_at=schedule.next_for_day(day)
        )
    return count


def spread_expiration(key_set: KeySet) -> int:
    """The same for the expiration: one statement."""
    keys = _inheriting(key_set).filter(expiration__isnull=True)
    expiration = parse_expiration(key_set.expiration)
    if expiration is None:
        return keys.update(expires_at=None)
    if expiration.at is not None:
        return keys.update(expires_at=expiration.at)
    return keys.update(expires_at=F("created_at") + timedelta(days=expiration.days or 0))


def _inheriting(key_set: KeySet) -> QuerySet[CloudKey]:
    live = CloudKey.objects.filter(key_set=key_set, kind=CloudKey.Kind.USER)
    return live.exclude(state=CloudKey.State.DESTROYED)
