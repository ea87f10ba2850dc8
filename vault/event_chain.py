"""The chain over audit events: each is linked to the one before, in the transaction that writes it.

Links are numbered from 1 without gaps, whatever sequence numbers a rolled-back transaction has used up.
A link's digest is SHA-256 over the digest before and the event as it stands in the table, so that an
event that is edited, removed, put in or moved shows; the xks agent signs the last digest (xks.seals), so
that the whole chain cannot be made anew either.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC

from django.db.models import F

from vault.models import AuditChainHead, AuditEvent, AuditLink

FIRST_DIGEST = "0" * 64
_PORTION = 1000
# Every column but the foreign key of the vault, which becomes null when a vault is deleted; its name stays.
_TEXTS = (
    "vault_name", "actor_type", "actor_id", "actor_name", "via", "request_id", "action", "target_type",
    "target_id", "target_name", "outcome", "reason",
)  # fmt: skip


class EventsBroken(Exception):
    """The audit events are not what was written; tells the first link that does not hold."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"audit event at position {position}: {reason}")
        self.position = position
        self.reason = reason


def canonical(event: AuditEvent) -> bytes:
    """Return an event as the bytes that are hashed: the same before it is written and when read back."""
    values = {
        "sequence": event.sequence,
        "id": str(event.id),
        "at": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "source_ip": str(ipaddress.ip_address(event.source_ip)) if event.source_ip else "",
        "generation": event.generation,
        "before": event.before,
        "after": event.after,
        "detail": event.detail,
        **{name: str(getattr(event, name)) for name in _TEXTS},
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def link_digest(before: str, event: AuditEvent) -> str:
    """Return the digest (hex) of the link that joins ``event`` to what has the digest ``before``."""
    return hashlib.sha256(before.encode() + b"\n" + canonical(event)).hexdigest()


def write_events(events: Sequence[AuditEvent]) -> None:
    """Insert events and their links; call in a transaction, as its last statement but none that locks.

    The head's row stays locked until commit, so links, and the events' own sequence numbers, are in the
    order of the commits.
    """
    if not events:
        return
    head = _locked_head()
    AuditEvent.objects.bulk_create(events)
    _link(head, events)


def _locked_head() -> AuditChainHead:
    if not AuditChainHead.objects.filter(pk=1).update(position=F("position")):
        _, made = AuditChainHead.objects.get_or_create(pk=1, defaults={"digest": FIRST_DIGEST})
        AuditChainHead.objects.filter(pk=1).update(position=F("position"))
        if made:
            # What an older release wrote before there was a chain.
            _link(AuditChainHead.objects.get(pk=1), list(AuditEvent.objects.order_by("sequence")))
    return AuditChainHead.objects.get(pk=1)


def _link(head: AuditChainHead, events: Iterable[AuditEvent]) -> None:
    links = []
    for event in events:
        head.position += 1
        head.digest = link_digest(head.digest, event)
        links.append(AuditLink(position=head.position, sequence=event.sequence, digest=head.digest))
    AuditLink.objects.bulk_create(links, batch_size=_PORTION)
    head.save(update_fields=["position", "digest"])


def check_links(position: int = 0, digest: str = FIRST_DIGEST) -> Iterator[tuple[int, str]]:
    """Check the links behind ``position``, whose digest is given; yield each one's position and digest.

    Raises:
        EventsBroken: the first that does not hold.
    """
    last_sequence = 0
    while links := list(AuditLink.objects.filter(position__gt=position).order_by("position")[:_PORTION]):
        sequences = [link.sequence for link in links]
        events = {event.sequence: event for event in AuditEvent.objects.filter(sequence__in=sequences)}
        for link in links:
            position += 1
            if link.position != position:
                raise EventsBroken(position, "its link is missing")
            event = events.get(link.sequence)
            if event is None:
                raise EventsBroken(position, f"the event with sequence {link.sequence} was removed")
            if link.sequence <= last_sequence:
                raise EventsBroken(position, "it was moved")
            digest = link_digest(digest, event)
            if digest != link.digest:
                raise EventsBroken(position, "it was edited, or what stood before it was removed or moved")
            last_sequence = link.sequence
            yield position, digest


def check_events(signed: dict[int, str] | None = None) -> int:
    """Check every event and link; return how many there are.

    ``signed`` holds digests by position that were signed by the control plane; each must be there.

    Raises:
        EventsBroken: the first position that does not hold.
    """
    due = dict(signed or {})
    count = 0
    for position, digest in check_links():
        if due.pop(position, digest) != digest:
            raise EventsBroken(position, "it and what stood before are not what was signed")
        count = position
    if due:
        raise EventsBroken(count + 1, f"events up to position {max(due)} were signed and are missing")
    extra = AuditEvent.objects.exclude(sequence__in=AuditLink.objects.values("sequence")).first()
    if extra is not None:
        raise EventsBroken(count, f"the event with sequence {extra.sequence} was put in from outside")
    return count
