"""What a change would do, told before it is made: which keys follow a schedule, and what an end takes with it. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Count, Max, Min, Q
from django.utils import timezone

from cloudkeys.models import (
    AwsStoreLink,
    CloudKey,
    CspAccount,
    KeySet,
    KeyVersion,
    Operation,
    XksCredential,
    XksKeyStore,
)
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services.moments import count_by_day
from vault.actors import Actor
from vault.permissions import Permission

MOST_NAMES = 10


@dataclass(frozen=True)
class Named:
    """An object by id and name."""

    id: UUID
    name: str


@dataclass(frozen=True)
class ScheduleEffects:
    """What a key set's new rotation schedule and expiration would do to its living keys.

    follow, own: keys that would follow it, and keys that have one of their own and so stay as they are; retired: keys that
    never rotate again. overdue: followers whose new date lies in the past already, so that they would rotate at once.
    The same four for the expiration.
    """

    follow: int
    own: int
    retired: int
    overdue: int
    first_due_at: datetime | None
    last_due_at: datetime | None
    follow_examples: list[Named]
    own_examples: list[Named]
    expiration_follow: int
    expiration_own: int
    expiration_past: int
    first_expires_at: datetime | None
    expiration_own_examples: list[Named]


def schedule_effects(
    actor: Actor,
    key_set_id: UUID,
    *,
    rotation_schedule: Mapping[str, Any] | None = None,
    expiration: Mapping[str, Any] | None = None,
) -> ScheduleEffects:
    """What `update_key_set` with these values would do; None leaves the present one. A fixed number of queries.

    Raises NotFound, PermissionDenied, ValidationFailed.
    """
    key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_VIEW)
    schedule = parse_schedule(key_set.rotation_schedule if rotation_schedule is None else rotation_schedule)
    ending = parse_expiration(key_set.expiration if expiration is None else expiration)
    now = timezone.now()
    keys = CloudKey.objects.filter(key_set=key_set, kind=CloudKey.Kind.USER).exclude(
        state=CloudKey.State.DESTROYED
    )
    inherits, alive = Q(rotation_schedule__isnull=True), Q(retired_at=None)
    counts = keys.order_by().aggregate(
        follow=Count("pk", filter=inherits & alive),
        own=Count("pk", filter=~inherits & alive),
        retired=Count("pk", filter=~alive),
        expiration_follow=Count("pk", filter=Q(expiration__isnull=True)),
        expiration_own=Count("pk", filter=Q(expiration__isnull=False)),
        oldest=Min("created_at", filter=Q(expiration__isnull=True)),
    )
    oldest = counts.pop("oldest")
    first = last = None
    overdue = 0
    if schedule is not None:
        days = count_by_day(keys.filter(inherits & alive), "rotated_at", ZoneInfo(schedule.time_zone))
        due = sorted((schedule.next_for_day(day), count) for day, count in days.items())
        overdue = sum(count for at, count in due if at <= now)
        first, last = (due[0][0], due[-1][0]) if due else (None, None)
    first_end, past = None, 0
    if ending is not None and oldest is not None:
        first_end = ending.expires_at(oldest)
        followers = keys.filter(expiration__isnull=True, state=CloudKey.State.ENABLED)
        if ending.at is not None:
            past = followers.count() if ending.at <= now else 0
        else:
            past = followers.filter(created_at__lte=now - timedelta(days=ending.days or 0)).count()
    return ScheduleEffects(
        **counts,
        overdue=overdue,
        first_due_at=first,
        last_due_at=last,
        follow_examples=_names(keys.filter(inherits & alive)),
        own_examples=_names(keys.filter(~inherits & alive)),
        expiration_past=past,
        first_expires_at=first_end,
        expiration_own_examples=_names(keys.filter(expiration__isnull=False)),
    )


def _names(rows: Any) -> list[Named]:
    return [
        Named(pk, name) for pk, name in rows.order_by("name", "pk").values_list("pk", "name")[:MOST_NAMES]
    ]


@dataclass(frozen=True)
class AccountDependents:
    """What hangs on a CSP account, and why it cannot be deleted now, if so."""

    key_sets: int
    cloud_keys: int
    linked_stores: int
    key_set_examples: list[Named]
    unfinished_operations: int
    obstacles: list[str]


def account_dependents(actor: Actor, account_id: UUID) -> AccountDependents:
    """What uses the account's credential. Raises NotFound, PermissionDenied."""
    account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_VIEW)
    key_sets = KeySet.objects.filter(csp_account=account)
    keys = CloudKey.objects.filter(csp_account=account, kind=CloudKey.Kind.USER).exclude(
        state=CloudKey.State.DESTROYED
    )
    links = AwsStoreLink.objects.filter(store__key_set__csp_account=account, linked=True)
    unfinished = Operation.objects.filter(target_id=account.pk, state__in=Operation.UNFINISHED).count()
    number = key_sets.count()
    obstacles = []
    if number:
        them = f"{number} key sets work under it: delete those first."
        obstacles.append("1 key set works under it: delete it first." if number == 1 else them)
    if unfinished:
        obstacles.append("Work on it is under way: wait for it, or cancel it.")
    return AccountDependents(
        key_sets=number,
        cloud_keys=keys.count(),
        linked_stores=links.exclude(state=AwsStoreLink.State.GONE).count(),
        key_set_examples=_names(key_sets),
        unfinished_operations=unfinished,
        obstacles=obstacles,
    )


@dataclass(frozen=True)
class KeySetDeletion:
    """What deleting a key set takes away, and why it cannot be done now, if so."""

    living_keys: int
    destroyed_keys: int
    key_versions: int
    credentials: int
    aws_key_stores: list[str]
    unlinked_stores: list[str]
    last_deletion_ends_at: datetime | None
    obstacles: list[str]
    consequences: list[str]


def key_set_deletion(actor: Actor, key_set_id: UUID) -> KeySetDeletion:
    """What `delete_key_set` would take away now, and what is in its way. Raises NotFound, PermissionDenied."""
    key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_VIEW)
    counts = (
        CloudKey.objects.filter(key_set=key_set, kind=CloudKey.Kind.USER)
        .order_by()
        .aggregate(
            living=Count("pk", filter=~Q(state=CloudKey.State.DESTROYED)),
            destroyed=Count("pk", filter=Q(state=CloudKey.State.DESTROYED)),
            ends=Max("delete_after"),
        )
    )
    store = XksKeyStore.objects.filter(key_set=key_set).first()
    links = (
        list(AwsStoreLink.objects.filter(store=store).exclude(state=AwsStoreLink.State.GONE)) if store else []
    )
    linked = [f"{link.name} ({link.region})" for link in links if link.linked]
    credentials = (
        XksCredential.objects.filter(store=store, state=XksCredential.State.ACTIVE).count() if store else 0
    )
    obstacles = []
    if counts["living"]:
        obstacles.append(
            f"{counts['living']:,} of its keys are not destroyed: schedule their deletion and wait for its end."
        )
    obstacles += [f"AWS still has the key store {name}: disconnect and delete it first." for name in linked]
    consequences = ["Its path and credentials answer to nobody any more."] if store else []
    unlinked = [f"{link.name} ({link.region})" for link in links if not link.linked]
    if unlinked:
        consequences.append(
            "AWS key stores that Keystead does not drive stay in AWS, without keys: delete them there."
        )
    if counts["destroyed"]:
        consequences.append(
            f"The entries of {counts['destroyed']:,} destroyed keys go too; the audit record keeps theirs."
        )
    return KeySetDeletion(
        living_keys=counts["living"],
        destroyed_keys=counts["destroyed"],
        key_versions=KeyVersion.objects.filter(cloud_key__key_set=key_set, destroyed_at=None)
        .filter(cloud_key__kind=CloudKey.Kind.USER)
        .count(),
        credentials=credentials,
        aws_key_stores=linked,
        unlinked_stores=unlinked,
        last_deletion_ends_at=counts["ends"],
        obstacles=obstacles,
        consequences=consequences,
    )
