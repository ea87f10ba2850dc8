"""The numbers of the first page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet
from tests.cast import Cast
from tests.cloudkeys.api.test_lists import many_keys
from tests.cloudkeys.world import new_account, new_key, new_key_set, store_of
from vault.actors import Actor
from vault.errors import NotFound
from xks.models import Traffic, UsageHour
from xks.services import overview
from xks.traffic_buckets import bucket_of

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def owner(cast: Cast) -> Actor:
    return cast.actor("owner")


def a_set(owner: Actor, cast: Cast, account: CspAccount | None, name: str = "pay-hyok") -> KeySet:
    return new_key_set(owner, cast.vault, account, name=name).key_set


def test_keys_by_cloud_and_state(cast: Cast, owner: Actor) -> None:
    account = new_account(owner, cast.vault)
    for number in range(3):
        new_key(owner, a_set(owner, cast, account, f"set-{number}"), f"key-{number}")
    new_key(owner, a_set(owner, cast, None, "none"), "other")
    CloudKey.objects.filter(name="key-0").update(state="DISABLED", blocked=True)
    found = overview.overview_of(owner, cast.vault)
    assert [(each.cloud, each.state, each.count, each.blocked) for each in found.keys] == [
        ("", "ENABLED", 1, 0), ("aws", "ENABLED", 2, 0), ("aws", "DISABLED", 1, 1),
    ]  # fmt: skip
    assert (found.total, found.simulated) == (4, False)
    CspAccount.objects.filter(pk=account.pk).update(partition="simulator")
    assert overview.overview_of(owner, cast.vault).simulated


def test_days_are_those_of_the_person_and_the_first_holds_what_is_overdue(cast: Cast, owner: Actor) -> None:
    now = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)  # the 23rd in Berlin
    key_set = a_set(owner, cast, new_account(owner, cast.vault))
    dates = [now - 40 * HOUR, now, now + HOUR, now + timedelta(days=90), now + timedelta(days=92)]
    for number, at in enumerate(dates):
        key = new_key(owner, key_set, f"key-{number}")
        CloudKey.objects.filter(pk=key.pk).update(next_rotation_at=at, expires_at=at + timedelta(days=1))
    days = overview.due_days(cast.vault, now, "Europe/Berlin")
    assert len(days) == 91
    assert days[0].day == now.astimezone(ZoneInfo("Europe/Berlin")).date()
    assert (days[0].rotations, days[0].expiries) == (3, 1)
    assert (days[1].rotations, days[1].expiries) == (0, 2)
    assert (days[90].rotations, days[90].expiries) == (1, 0)
    utc = overview.due_days(cast.vault, now, "UTC")
    assert (utc[0].rotations, utc[1].rotations) == (2, 1)
    CloudKey.objects.update(state="DISABLED")
    assert sum(day.rotations for day in overview.due_days(cast.vault, now, "UTC")) == 0


def test_traffic_of_the_last_day_over_the_vaults_stores(cast: Cast, owner: Actor) -> None:
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    store = store_of(a_set(owner, cast, new_account(owner, cast.vault)))
    other = store_of(new_key_set(cast.actor("outsider"), cast.other_vault, None).key_set)
    for store_id, at, delay, requests, errors in (
        (store.pk, hour, 400, 90, 0),
        (store.pk, hour, 9000, 10, 5),
        (store.pk, hour - 23 * HOUR, 400, 1, 0),
        (store.pk, hour - 24 * HOUR, 400, 1000, 0),
        (other.pk, hour, 400, 1000, 0),
    ):
        Traffic.objects.create(
            span_s=3600, at=at, store_id=store_id, bucket=bucket_of(delay), requests=requests, errors=errors
        )
    found = overview.traffic_of_day(cast.vault, now)
    assert [each.at for each in found.hours] == [hour - number * HOUR for number in range(23, -1, -1)]
    assert (found.requests, found.refused, found.hours[-1].requests, found.hours[0].requests) == (
        101,
        5,
        100,
        1,
    )
    last = found.hours[-1]
    assert last.p50_us is not None
    assert last.p99_us is not None
    assert 350 < last.p50_us < 460
    assert 7900 < last.p99_us < 10200
    assert (found.hours[5].requests, found.hours[5].p99_us) == (0, None)


def test_first_run_ticks_itself(cast: Cast, owner: Actor) -> None:
    def done() -> list[str]:
        return [step.name for step in overview.first_run(owner, cast.vault).steps if step.done]

    assert done() == ["create_vault"]
    account = new_account(owner, cast.vault)
    assert done() == ["create_vault", "add_account"]
    key_set = a_set(owner, cast, account)
    assert done()[-1] == "create_key_set"
    link = AwsStoreLink.objects.create(
        vault=cast.vault,
        store=store_of(key_set),
        region="eu-west-1",
        name="s",
        endpoint="https://xks.example.com",
    )
    assert done()[-1] == "create_key_set"
    AwsStoreLink.objects.filter(pk=link.pk).update(state="CONNECTED")
    assert done()[-1] == "connect_store"
    key = new_key(owner, key_set)
    found = overview.first_run(owner, cast.vault)
    assert (found.done, found.next and found.next.name) == (False, "use_it")
    UsageHour.objects.create(
        hour=timezone.now(), store_id=str(key.store_id), key_id=str(key.pk), operation="encrypt", outcome="OK",
        count=1, last_at=timezone.now(),
    )  # fmt: skip
    assert overview.first_run(owner, cast.vault).done
    # An unlinked store's state is nothing that we know; that AWS used it proves it.
    AwsStoreLink.objects.filter(pk=link.pk).update(state="NOT_LINKED")
    assert overview.first_run(owner, cast.vault).done


def test_queries_do_not_grow(cast: Cast, owner: Actor) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            overview.overview_of(Actor(user=cast.users["owner"]), cast.vault)
        return len(captured)

    many_keys(a_set(owner, cast, new_account(owner, cast.vault)), 5)
    AwsStoreLink.objects.create(
        vault=cast.vault,
        store=store_of(KeySet.objects.get()),
        region="eu-west-1",
        name="s",
        endpoint="https://x.example",
    )
    before = queries()
    many_keys(a_set(owner, cast, None, "more"), 60)
    assert queries() == before <= 16


def test_strangers(cast: Cast) -> None:
    for who in ("outsider", "appliance"):
        with pytest.raises(NotFound):
            overview.overview_of(cast.actor(who), cast.vault)
