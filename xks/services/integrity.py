"""Whether the record still is what was written, and when that was last looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db.models import Q
from django.utils import timezone

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import PermissionDenied
from vault.models import AuditEvent, Vault
from vault.permissions import Permission
from xks.audit_check import Report, verify
from xks.models import AuditIntegrity, AuditKey

log = structlog.get_logger("keystead.audit")

EVERY: Final = timedelta(hours=1)
CLAIM: Final = timedelta(hours=2)
"""A check that was begun longer ago has died."""
RECENT: Final = timedelta(days=2)
TURN_DAYS: Final = 30
"""Of what is older, each day has its turn once in so many days."""
OVERDUE: Final = timedelta(hours=6)
MOST_TEXTS: Final = 100


@dataclass(frozen=True)
class Integrity:
    """What is known. ``state``: UNKNOWN (never looked at), HOLDS, OVERDUE (held, long ago), BROKEN."""

    state: str
    checked_at: datetime | None
    held_at: datetime | None
    seconds: float
    findings: int
    gaps: int
    texts: list[str]
    gap_texts: list[str]
    seals: int
    head: str
    segments: int
    records: int
    stored: int
    events: int


def integrity_of(actor: Actor) -> Integrity:
    """Return the result of the last verification; texts only for whoever audits the installation.

    Raises PermissionDenied for somebody who may see audit events nowhere.
    """
    whole = actor.may(Permission.APPLIANCE_VIEW_AUDIT)
    if not whole and not any(actor.may(Permission.AUDIT_VIEW, vault) for vault in actor.visible(Vault)):
        raise PermissionDenied(
            "The state of the record is shown to members of a vault.", cure="Ask a vault admin to add you."
        )
    row = AuditIntegrity.objects.filter(pk=1).first() or AuditIntegrity()
    if row.checked_at is None:
        state = "UNKNOWN"
    elif not row.holds:
        state = "BROKEN"
    else:
        state = "OVERDUE" if row.checked_at < timezone.now() - OVERDUE else "HOLDS"
    return Integrity(
        state,
        row.checked_at,
        row.held_at,
        row.seconds,
        len(row.findings),
        len(row.gaps),
        list(row.findings) if whole else [],
        list(row.gaps) if whole else [],
        row.seals,
        row.head,
        row.segments,
        row.records,
        row.stored,
        row.events,
    )


def verify_when_due(actor: Actor, node_name: str, journal: Path) -> bool | None:
    """Verify the record if nobody has for an hour; return whether it holds, None when it was not due.

    Looks at all seals, journals that are at hand and audit events, and at the database's records of the last two days
    and of one older day in turn.
    """
    now = timezone.now()
    AuditIntegrity.objects.get_or_create(pk=1)
    due = Q(checked_at=None) | Q(checked_at__lt=now - EVERY)
    free = Q(claimed_at=None) | Q(claimed_at__lt=now - CLAIM)
    if not AuditIntegrity.objects.filter(due, free, pk=1).update(claimed_at=now):
        return None
    try:
        return verify_now(actor, node_name, journal, wanted=in_turn(now))
    finally:
        AuditIntegrity.objects.filter(pk=1).update(claimed_at=None)


def in_turn(now: datetime) -> Callable[[datetime], bool]:
    """Return of which segments and hours the records are compared at this moment."""

    def wanted(begun: datetime) -> bool:
        return begun >= now - RECENT or (begun.astimezone(UTC).toordinal() + now.toordinal()) % TURN_DAYS == 0

    return wanted


def verify_now(
    actor: Actor, node_name: str, journal: Path, *, wanted: Callable[[datetime], bool] = lambda _: True
) -> bool | None:
    """Verify the record against the head that was seen last, and keep the result; None before the first seal."""
    key = AuditKey.objects.filter(pk=1).values_list("public_key", flat=True).first()
    if key is None:
        return None
    AuditIntegrity.objects.get_or_create(pk=1)
    row = AuditIntegrity.objects.get(pk=1)
    began = time.monotonic()
    report = verify(
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)),
        journal,
        known_head=(row.seals, row.head) if row.seals else None,
        wanted=wanted,
    )
    keep_result(actor, node_name, report, time.monotonic() - began)
    return report.holds


def keep_result(actor: Actor, node_name: str, report: Report, seconds: float) -> None:
    """Keep what a verification found; an alarm, and an audit event whenever the answer is another than before."""
    now = timezone.now()
    with change(actor) as tx:
        AuditIntegrity.objects.get_or_create(pk=1)
        row = AuditIntegrity.objects.select_for_update().get(pk=1)
        before = row.holds
        row.checked_at, row.seconds, row.node_name, row.holds = (
            now,
            round(seconds, 3),
            node_name,
            report.holds,
        )
        row.findings, row.notes = report.findings[:MOST_TEXTS], report.notes[:MOST_TEXTS]
        row.gaps = report.gaps[:MOST_TEXTS]
        row.segments, row.records, row.stored, row.events = (
            report.segments,
            report.records,
            report.stored,
            report.events,
        )
        if report.holds:
            # The head that held last stays the one to compare with, so that what does not hold goes on showing.
            row.held_at, row.seals, row.head = now, report.seals, report.head
        row.save()
        if report.holds != before:
            tx.audit(
                Action.AUDIT_VERIFY,
                None,
                outcome=AuditEvent.Outcome.SUCCESS if report.holds else AuditEvent.Outcome.FAILURE,
                reason=report.findings[0][:1000] if report.findings else "It holds again.",
                detail={"findings": len(report.findings), "seals": report.seals},
            )
    if not report.holds:
        log.critical(
            "THE AUDIT RECORD DOES NOT HOLD: run 'keystead audit verify'",
            alarm=True,
            findings=len(report.findings),
            first=report.findings[0],
        )
