"""Recorded use of many keys, as lists and bulk acts of the room below ask for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey
from cloudkeys.services import uses
from tests.cast import Cast
from tests.cloudkeys.world import new_account, new_key, new_key_set
from xks.models import UsageHour
from xks.services.uses_of_keys import RecordedUses


def used(key: CloudKey, at: datetime, service: str = "s3", principal: str = "role/app", **more: Any) -> None:
    """One hour's sum."""
    values: dict[str, Any] = {"operation": "decrypt", "outcome": "OK", "count": 5, **more}
    UsageHour.objects.create(
        hour=at.replace(minute=0, second=0, microsecond=0),
        store_id="s",
        key_id=str(key.pk),
        kms_via_service=service,
        principal_arn=principal,
        last_at=at,
        **values,
    )


@pytest.fixture
def keys(cast: Cast) -> list[CloudKey]:
    """Three keys, all of them old."""
    owner = cast.actor("owner")
    key_set = new_key_set(owner, cast.vault, new_account(owner, cast.vault)).key_set
    made = [new_key(owner, key_set, name) for name in ("busy", "quiet", "never")]
    CloudKey.objects.update(created_at=timezone.now() - timedelta(days=400))
    return made


def test_last_used_looks_back_as_far_as_it_must(keys: list[CloudKey], django_assert_num_queries: Any) -> None:
    busy, quiet, never = keys
    now = timezone.now()
    used(busy, now - timedelta(minutes=2))
    used(busy, now - timedelta(days=200))
    used(quiet, now - timedelta(days=200))
    used(never, now, outcome="DisabledException")
    with django_assert_num_queries(3):
        found = uses.reader().last_used([key.pk for key in keys])
    assert found == {busy.pk: now - timedelta(minutes=2), quiet.pk: now - timedelta(days=200)}


def test_unused_keys_are_found_by_the_list(keys: list[CloudKey]) -> None:
    busy, quiet, never = keys
    now = timezone.now()
    used(busy, now)
    used(quiet, now - timedelta(days=100))

    def names(days: int) -> list[str]:
        wanted = RecordedUses().unused_since(now - timedelta(days=days))
        return sorted(CloudKey.objects.filter(wanted, kind="USER").values_list("name", flat=True))

    assert names(90) == ["never", "quiet"]
    assert names(120) == ["never"]
    CloudKey.objects.filter(pk=never.pk).update(created_at=now)
    assert names(90) == ["quiet"]


def test_reach_tells_who_would_notice(keys: list[CloudKey], django_assert_num_queries: Any) -> None:
    busy, quiet, _ = keys
    now = timezone.now()
    used(busy, now)
    used(busy, now - timedelta(hours=2), principal="role/other")
    used(quiet, now, service="rds")
    used(quiet, now - timedelta(days=9), service="ebs")
    with django_assert_num_queries(1):
        reach = uses.reader().reach([busy.pk, quiet.pk], now)
    assert (reach.days, reach.keys, reach.uses, reach.principals) == (7, 2, 15, 2)
    assert reach.services == (("s3", 2), ("rds", 1))
    assert reach.last_at == now
