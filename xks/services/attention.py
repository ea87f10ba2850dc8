"""What needs attention now, worst first: the items of every room put together, and kept so that mails tell of changes only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

from django.db.models import Min
from django.utils import timezone

from cloudkeys.models import CloudKey
from cloudkeys.services import attention as of_keys
from vault.actors import Actor
from vault.attention import (
    MOST_EXAMPLES,
    InstallationSource,
    Item,
    Ref,
    Severity,
    VaultSource,
    data_plane_items,
    worst_first,
)
from vault.changes import change
from vault.hsm_attention import hsm_items, vault_hsm_items
from vault.models import UnusedKeys, Vault
from vault.permissions import Permission
from xks.models import AuditIntegrity, JournalChain, UsageHour
from xks.services.certificates import expiries, node_certificates
from xks.services.usage import USES

UNUSED_AFTER = timedelta(days=90)
COUNT_UNUSED_EVERY = timedelta(hours=6)
INTEGRITY_LATE_AFTER = timedelta(days=2)
_EFFECT = {
    False: "AWS KMS refuses the endpoint: every use of every key fails.",
    True: "whoever shows a certificate under it is refused at the handshake.",
}
RENEWS_ITSELF_DAYS = 7
"""Certificates that nodes make for themselves are made anew before; whatever ends so soon is an emergency."""


def _data_plane(actor: Actor, vault: Vault, now: datetime) -> list[Item]:
    return data_plane_items(now)


def unused_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """Keys that nobody has used for 90 days, as the clock last counted them. One query."""
    found = UnusedKeys.objects.filter(vault=vault, known=True, count__gt=0).first()
    if found is None:
        return
    examples = tuple(Ref(each["id"], each["name"]) for each in found.examples)
    single = found.count == 1
    yield Item(
        kind="key.unused",
        severity=Severity.NOTICE,
        what=(f"{examples[0].name} has" if single else f"{found.count:,} CloudKeys have")
        + " not been used for 90 days.",
        why="A key that nobody needs is a risk without a use. Disable it first, and see who notices.",
        fix="Show key" if single else "Show keys",
        action="open_keys",
        target_type="cloud_key",
        target_id=examples[0].id if single else "",
        target_name=examples[0].name if single else "",
        count=found.count,
        examples=examples,
        list_query="state=ENABLED&unused_for=90",
    )


def record_items(actor: Actor, now: datetime) -> Iterator[Item]:
    """The audit record: that it does not hold, or was not verified for long. One query."""
    row = AuditIntegrity.objects.first()
    if row is None or row.checked_at is None:
        return
    if not row.holds:
        first = row.findings[0] if row.findings else ""
        yield Item(
            kind="record.broken",
            severity=Severity.CRITICAL,
            what="The audit record does not hold: it was altered, or a part of it is missing.",
            why=str(first) or "The last verification tells more.",
            fix="Show findings",
            action="open_record",
            target_type="record",
            since=row.held_at,
        )
    elif row.checked_at < now - INTEGRITY_LATE_AFTER:
        yield Item(
            kind="record.unverified",
            severity=Severity.WARNING,
            what="The audit record has not been verified for two days.",
            why="An alteration would not be noticed.",
            fix="Verify now",
            action="verify_record",
            target_type="record",
            since=row.checked_at,
        )


def certificate_items(actor: Actor, now: datetime) -> Iterator[Item]:
    """Certificates of the XKS endpoint that end or have ended, and nodes that do not serve the newest. Six queries."""
    for each in expiries(now):
        if each.alarm_days is None or (each.renews_itself and each.days_left > RENEWS_ITSELF_DAYS):
            continue
        ended = each.days_left <= 0
        until = f"{each.not_after:%Y-%m-%d %H:%M} UTC"
        what = each.what[0].upper() + each.what[1:]
        yield Item(
            kind="certificate.ended" if ended else "certificate.ends",
            severity=Severity.CRITICAL if each.days_left <= RENEWS_ITSELF_DAYS else Severity.WARNING,
            what=f"{what} ended at {until}." if ended else f"{what} ends in {each.days_left:.0f} days.",
            why=(f"Since {until}" if ended else f"From {until} on") + f" {_EFFECT[each.of_clients]}",
            fix="Show certificates",
            action="open_certificates",
            target_type="certificate",
            target_id=each.fingerprint,
            target_name=each.what,
            since=each.not_after if ended else None,
        )
    for node in node_certificates():
        if trouble := node.served.get("trouble"):
            yield Item(
                kind="certificate.not_served",
                severity=Severity.CRITICAL,
                what=f"Node {node.node} does not serve the newest certificate.",
                why=str(trouble),
                fix="Show certificates",
                action="open_certificates",
                target_type="node",
                target_id=node.node,
                target_name=node.node,
            )


VAULT_SOURCES: tuple[VaultSource, ...] = (
    of_keys.vault_items,
    _data_plane,
    vault_hsm_items,
    of_keys.store_items,
    of_keys.account_items,
    of_keys.key_items,
    of_keys.operation_items,
    unused_items,
)
"""Each takes (actor, vault, now) and asks a fixed number of queries, however many rows there are."""
INSTALLATION_SOURCES: tuple[InstallationSource, ...] = (
    lambda actor, now: data_plane_items(now),
    record_items,
    certificate_items,
    hsm_items,
)


def attention_of_vault(actor: Actor, vault: Vault) -> list[Item]:
    """What needs attention in a vault, worst first. A fixed number of queries. Raises NotFound, PermissionDenied."""
    actor.require(Permission.CLOUD_KEYS_VIEW, vault)
    now = timezone.now()
    return worst_first(item for source in VAULT_SOURCES for item in source(actor, vault, now))


def attention_of_installation(actor: Actor) -> list[Item]:
    """What needs the appliance admin's attention; nothing of any vault's contents. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_NODES)
    now = timezone.now()
    return worst_first(item for source in INSTALLATION_SOURCES for item in source(actor, now))


def count_unused_keys(actor: Actor, limit: int = 5) -> int:
    """Count, for a few vaults whose count is old, the enabled keys that nobody has used for 90 days. Returns how many vaults.

    Reads the hourly sums of a whole vault, so the clock does it and pages read the outcome.
    """
    now = timezone.now()
    done = 0
    due = Vault.objects.filter(state=Vault.State.ENABLED).exclude(
        unused_keys__counted_at__gt=now - COUNT_UNUSED_EVERY
    )
    for vault in list(due.order_by("pk")[:limit]):
        _count_unused(actor, vault, now)
        done += 1
    return done


def _count_unused(actor: Actor, vault: Vault, now: datetime) -> None:
    since = JournalChain.objects.aggregate(first=Min("started_at"))["first"]
    known = since is not None and since <= now - UNUSED_AFTER
    count, examples = 0, []
    if known:
        stores = [str(pk) for pk in vault.xks_key_stores.values_list("pk", flat=True)]
        uses = UsageHour.objects.filter(hour__gte=now - UNUSED_AFTER, outcome="OK", operation__in=USES)
        used = set(uses.filter(store_id__in=stores).values_list("key_id", flat=True).distinct())
        old = CloudKey.objects.filter(
            vault=vault,
            kind=CloudKey.Kind.USER,
            state=CloudKey.State.ENABLED,
            created_at__lte=now - UNUSED_AFTER,
        ).order_by("created_at", "pk")
        unused = (
            {"id": str(pk), "name": name}
            for pk, name in old.values_list("pk", "name").iterator(chunk_size=2000)
            if str(pk) not in used
        )
        examples = list(islice(unused, MOST_EXAMPLES))
        count = len(examples) + sum(1 for _ in unused)
    with change(actor):
        UnusedKeys.objects.update_or_create(
            vault=vault, defaults={"counted_at": now, "known": known, "count": count, "examples": examples}
        )
