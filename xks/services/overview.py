"""The numbers of the first page: keys by state and cloud, what falls due, the traffic of a day, and how far a first run has got."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Count, Q, Sum
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, XksKeyStore
from cloudkeys.services.moments import keys_due_by_day
from vault.actors import Actor
from vault.models import Vault
from vault.permissions import Permission
from xks.models import Traffic, UsageHour
from xks.services.usage import USES
from xks.traffic_buckets import percentile

DAYS_AHEAD = 90
HOURS_BACK = 24
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class KeyCount:
    """How many CloudKeys of one cloud are in one state. `cloud` is a partition; empty: under no account."""

    cloud: str
    cloud_label: str
    simulated: bool
    state: str
    count: int
    blocked: int


@dataclass(frozen=True)
class DueDay:
    """What falls due on one day of the person's time zone. The first day holds what is overdue too."""

    day: date
    rotations: int
    expiries: int


@dataclass(frozen=True)
class HourTraffic:
    """Requests with a valid signature in one hour, microseconds; None where nothing was measured."""

    at: datetime
    requests: int
    refused: int
    p50_us: int | None
    p99_us: int | None


@dataclass(frozen=True)
class DayTraffic:
    """The last 24 hours, hour by hour, the present one last."""

    hours: list[HourTraffic]
    requests: int
    refused: int
    p50_us: int | None
    p99_us: int | None


@dataclass(frozen=True)
class Step:
    """One step of the first run. `target_id` is the first object that made it done."""

    name: str
    label: str
    done: bool
    action: str
    target_id: UUID | None = None


@dataclass(frozen=True)
class FirstRun:
    """How far a new vault has got."""

    steps: list[Step]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(step.done for step in self.steps)

    @property
    def next(self) -> Step | None:
        """What to do next."""
        return next((step for step in self.steps if not step.done), None)


@dataclass(frozen=True)
class Overview:
    """All of it."""

    keys: list[KeyCount]
    due: list[DueDay]
    traffic: DayTraffic
    first_run: FirstRun
    simulated: bool
    total: int = field(default=0)


def overview_of(actor: Actor, vault: Vault) -> Overview:
    """The numbers of a vault. A fixed number of queries, each answered by an index. Raises NotFound, PermissionDenied."""
    actor.require(Permission.CLOUD_KEYS_VIEW, vault)
    now = timezone.now()
    zone = actor.user.time_zone if actor.user is not None else "UTC"
    keys = keys_by_state(vault)
    return Overview(
        keys=keys,
        due=due_days(vault, now, zone),
        traffic=traffic_of_day(vault, now),
        first_run=_first_run(vault),
        simulated=any(each.simulated for each in keys)
        or CspAccount.objects.filter(vault=vault, partition=CspAccount.Partition.SIMULATOR).exists(),
        total=sum(each.count for each in keys),
    )


def keys_by_state(vault: Vault) -> list[KeyCount]:
    """CloudKeys by cloud and state, destroyed ones apart from all. Two queries: accounts, and counts by account."""
    partitions = dict(CspAccount.objects.filter(vault=vault).values_list("pk", "partition"))
    rows = (
        CloudKey.objects.filter(vault=vault, kind=CloudKey.Kind.USER)
        .order_by()
        .values_list("csp_account", "state")
        .annotate(count=Count("*"), blocked=Count("blocked", filter=Q(blocked=True)))
    )
    counts: Counter[tuple[str, str]] = Counter()
    blocked: Counter[tuple[str, str]] = Counter()
    for account, state, count, of_these in rows:
        where = (partitions.get(account, ""), state)
        counts[where] += count
        blocked[where] += of_these
    labels = {"": "No account", **dict(CspAccount.Partition.choices)}
    states = list(CloudKey.State.values)
    return [
        KeyCount(
            cloud,
            str(labels.get(cloud, cloud)),
            cloud == CspAccount.Partition.SIMULATOR,
            state,
            counts[cloud, state],
            blocked[cloud, state],
        )
        for cloud, state in sorted(counts, key=lambda each: (each[0], states.index(each[1])))
    ]


def due_days(vault: Vault, now: datetime, zone: str, days: int = DAYS_AHEAD) -> list[DueDay]:
    """Rotations and expiries by day, today and `days` more. Two queries, whatever number of keys."""
    tz = ZoneInfo(zone)
    today = now.astimezone(tz).date()
    rotations, ends = (
        keys_due_by_day(vault, name, today, days, tz) for name in ("next_rotation_at", "expires_at")
    )
    return [
        DueDay(day, rotations[day], ends[day])
        for day in (today + timedelta(days=number) for number in range(days + 1))
    ]


def traffic_of_day(vault: Vault, now: datetime) -> DayTraffic:
    """Requests and delays of the last 24 hours over all stores of the vault. Two queries: stores, and their buckets."""
    stores = list(XksKeyStore.objects.filter(vault=vault).values_list("pk", flat=True))
    last = now.replace(minute=0, second=0, microsecond=0)
    first = last - (HOURS_BACK - 1) * _HOUR
    buckets: dict[datetime, Counter[int]] = defaultdict(Counter)
    refused: Counter[datetime] = Counter()
    rows = Traffic.objects.filter(span_s=3600, at__gte=first, store_id__in=stores).order_by()
    for at, bucket, requests, errors in rows.values_list("at", "bucket").annotate(
        all=Sum("requests"), wrong=Sum("errors")
    ):
        buckets[at][bucket] += requests
        refused[at] += errors
    hours = []
    whole: Counter[int] = Counter()
    for number in range(HOURS_BACK):
        at = first + number * _HOUR
        counts = buckets[at]
        whole.update(counts)
        hours.append(
            HourTraffic(
                at, sum(counts.values()), refused[at], percentile(counts, 0.5), percentile(counts, 0.99)
            )
        )
    return DayTraffic(
        hours, sum(whole.values()), sum(refused.values()), percentile(whole, 0.5), percentile(whole, 0.99)
    )


def first_run(actor: Actor, vault: Vault) -> FirstRun:
    """How far the vault has got on its first way. Raises NotFound, PermissionDenied."""
    actor.require(Permission.CLOUD_KEYS_VIEW, vault)
    return _first_run(vault)


def _first_run(vault: Vault) -> FirstRun:
    account = (
        CspAccount.objects.filter(vault=vault).order_by("created_at").values_list("pk", flat=True).first()
    )
    key_set = KeySet.objects.filter(vault=vault).order_by("created_at").values_list("pk", flat=True).first()
    link = (
        AwsStoreLink.objects.filter(vault=vault)
        .exclude(state=AwsStoreLink.State.GONE)
        .order_by("created_at")
        .values_list("pk", "store_id", "state", "linked")
    )
    links = list(link[:200])
    uses = UsageHour.objects.filter(
        store_id__in=[str(each[1]) for each in links], operation__in=USES, outcome="OK"
    )
    used = bool(links) and uses.exists()
    # An unlinked store's state is not ours to know: that AWS calls it is the proof.
    connected = next((each[0] for each in links if each[2] == AwsStoreLink.State.CONNECTED), None)
    if connected is None and used:
        connected = links[0][0]
    keys = CloudKey.objects.filter(vault=vault, kind=CloudKey.Kind.USER)
    key = keys.order_by("name", "pk").values_list("pk", flat=True).first()
    return FirstRun(
        [
            Step("create_vault", "Create a vault", True, "open_vault", vault.pk),
            Step("add_account", "Add a CSP account", account is not None, "add_account", account),
            Step("create_key_set", "Create a key set", key_set is not None, "create_key_set", key_set),
            Step("connect_store", "Connect the key store", connected is not None, "open_stores", connected),
            Step("create_key", "Create a CloudKey", key is not None, "create_key", key),
            Step("use_it", "Use it in AWS", used, "open_use_it", key if used else None),
        ]
    )
