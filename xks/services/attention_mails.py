"""Mails about what needs attention: what is critical at once, the rest once a day; only when something has changed.

No storms: an item that comes and goes is told once in a day, one person gets at most one mail at once every quarter of an
hour, and a digest whose items are those of the last one is not sent. A mail that the server did not take is tried again.
Any number of workers may run this: a mailbox is claimed by a conditional UPDATE, and a claim ends by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from vault import mail
from vault.actors import Actor
from vault.attention import Item, Severity
from vault.models import AttentionMailbox, AttentionSeen, Membership, UserPreferences, Vault
from xks.services.attention import attention_of_vault

AT_ONCE_EVERY = timedelta(minutes=15)
RECURS_AFTER = timedelta(days=1)
"""An item that was over for less than this has never been away."""
DIGEST_HOUR = 7
CLAIM = timedelta(minutes=5)
FORGOTTEN_AFTER = timedelta(days=30)
MOST_TOLD = 50
_AT_ONCE = (UserPreferences.AttentionMail.CRITICAL, UserPreferences.AttentionMail.CRITICAL_AND_DAILY)
_DAILY = (UserPreferences.AttentionMail.DAILY, UserPreferences.AttentionMail.CRITICAL_AND_DAILY)


def mail_attention(actor: Actor) -> int:
    """Look at every vault in which somebody wishes mails, and send what is due. Returns the number of mails sent."""
    if not settings.MAIL_CONFIGURED:
        return 0
    wishes = (
        Membership.objects.filter(vault__state=Vault.State.ENABLED, user__is_active=True)
        .exclude(user__preferences=None)
        .exclude(user__preferences__attention_mail=UserPreferences.AttentionMail.OFF)
        .select_related("vault", "user", "user__preferences")
        .order_by("vault_id", "user_id")
    )
    by_vault: dict[Vault, list[Membership]] = {}
    for membership in wishes:
        by_vault.setdefault(membership.vault, []).append(membership)
    now = timezone.now()
    sent = 0
    for vault, members in by_vault.items():
        items = attention_of_vault(actor, vault)
        note_items(vault, items, now)
        for membership in members:
            sent += _mail_member(vault, membership, items, now)
    return sent


def note_items(vault: Vault, items: Sequence[Item], now: datetime) -> None:
    """Keep which items there are, since when, and which are over."""
    with transaction.atomic():
        # The vault's row makes two that note at once take turns.
        Vault.objects.select_for_update().get(pk=vault.pk)
        known = {row.key: row for row in AttentionSeen.objects.filter(vault=vault)}
        for item in items:
            _note(vault, item, known.pop(item.key[:200], None), now)
        gone = [row.pk for row in known.values() if row.over_at is None]
        AttentionSeen.objects.filter(pk__in=gone).update(over_at=now)
        AttentionSeen.objects.filter(vault=vault, over_at__lt=now - FORGOTTEN_AFTER).delete()


def _note(vault: Vault, item: Item, row: AttentionSeen | None, now: datetime) -> None:
    critical = item.severity == Severity.CRITICAL
    if row is None:
        row = AttentionSeen(vault=vault, key=item.key[:200], first_seen_at=now)
        row.became_critical_at = now if critical else None
    else:
        back = row.over_at is not None and row.over_at < now - RECURS_AFTER
        if back:
            row.first_seen_at = now
        if critical and (back or row.became_critical_at is None):
            row.became_critical_at = now
    row.severity, row.what, row.last_seen_at, row.over_at = item.severity, item.what[:500], now, None
    row.save()


def _mail_member(vault: Vault, membership: Membership, items: Sequence[Item], now: datetime) -> int:
    wish = membership.user.preferences.attention_mail
    box, _ = AttentionMailbox.objects.get_or_create(
        vault=vault, user=membership.user, defaults={"critical_told_until": now - timedelta(seconds=1)}
    )
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    if not AttentionMailbox.objects.filter(free, pk=box.pk).update(claimed_until=now + CLAIM):
        return 0
    try:
        box.refresh_from_db()
        sent = _mail_critical(vault, membership, box, items, now) if wish in _AT_ONCE else 0
        return sent + (_mail_digest(vault, membership, box, items, now) if wish in _DAILY else 0)
    finally:
        AttentionMailbox.objects.filter(pk=box.pk).update(claimed_until=None)


def _mail_critical(
    vault: Vault, membership: Membership, box: AttentionMailbox, items: Sequence[Item], now: datetime
) -> int:
    if box.critical_mailed_at is not None and box.critical_mailed_at > now - AT_ONCE_EVERY:
        return 0
    new = set(
        AttentionSeen.objects.filter(
            vault=vault,
            over_at=None,
            became_critical_at__gt=box.critical_told_until,
            became_critical_at__lte=now,
        ).values_list("key", flat=True)
    )
    told = [item for item in items if item.severity == Severity.CRITICAL and item.key[:200] in new]
    if not told:
        return 0
    subject = (
        f"{vault.name}: {told[0].what}" if len(told) == 1 else f"{vault.name}: {len(told)} critical things"
    )
    if not _send(vault, membership, subject, told, "This is critical, and new."):
        return 0
    box.critical_told_until = box.critical_mailed_at = now
    box.save(update_fields=["critical_told_until", "critical_mailed_at"])
    return 1


def _mail_digest(
    vault: Vault, membership: Membership, box: AttentionMailbox, items: Sequence[Item], now: datetime
) -> int:
    local = now.astimezone(ZoneInfo(membership.user.time_zone))
    if local.hour < DIGEST_HOUR or box.digest_on == local.date():
        return 0
    digest = digest_of(items)
    sent = 0
    if digest != box.digest_of and (items or box.digest_of):
        subject = (
            f"{vault.name}: {len(items)} things need attention"
            if items
            else f"{vault.name}: all is well again"
        )
        if not _send(
            vault, membership, subject, items, "What needs attention has changed since the last mail."
        ):
            return 0
        sent = 1
    box.digest_on, box.digest_of = local.date(), digest
    box.save(update_fields=["digest_on", "digest_of"])
    return sent


def digest_of(items: Iterable[Item]) -> str:
    """What tells one day's items from another's: which there are and how bad, not their words, which hold ages."""
    lines = sorted(f"{item.severity:d} {item.key}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _send(vault: Vault, membership: Membership, subject: str, items: Sequence[Item], intro: str) -> bool:
    return mail.mail_attention(
        membership.user,
        vault=vault,
        subject=subject,
        items=items[:MOST_TOLD],
        more=max(0, len(items) - MOST_TOLD),
        intro=intro,
    )
