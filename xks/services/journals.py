"""Journals of the data plane's workers: which are written, what of them is in the database, what is lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Prefetch, QuerySet
from django.utils import timezone

from vault.actors import Actor
from vault.errors import PermissionDenied
from vault.models import Node, Vault
from vault.permissions import Permission
from xks.models import JournalChain, JournalShipment
from xks.services.usage import NODE_LOST_AFTER

LATE_S: Final = 60.0
_LOST: Final = (JournalChain.End.LOST, JournalChain.End.DAMAGED)


@dataclass(frozen=True)
class Standing:
    """How a journal stands.

    ``state``: OPEN (its worker writes), SHIPPING (ended, not all of it is in the database yet), COMPLETE, and GAP: something
    of it is lost, or may be, because its node has not been seen for an hour.  ``lag_s``: how much newer what is known
    to be written is than what is in the database; None where nothing is known.
    """

    state: str
    detail: str
    lag_s: float | None
    shipped_segment: int | None
    shipped_entries: int
    shipped_to: datetime | None


def journals_of_nodes(actor: Actor) -> QuerySet[JournalChain]:
    """Return all journals. Nodes serve every vault, so whoever may see nodes anywhere sees them. Raises PermissionDenied."""
    if not actor.may(Permission.APPLIANCE_VIEW_NODES) and not any(
        actor.may(Permission.NODES_VIEW, vault) for vault in actor.visible(Vault)
    ):
        raise PermissionDenied("Nodes are shown to members of a vault.", cure="Ask a vault admin to add you.")
    shipments = JournalShipment.objects.order_by("segment")
    return JournalChain.objects.prefetch_related(Prefetch("shipments", queryset=shipments))


def seen_nodes() -> set[str]:
    """Return the names of nodes that were seen of late."""
    rows = Node.objects.filter(last_seen_at__gte=timezone.now() - NODE_LOST_AFTER)
    return set(rows.values_list("name", flat=True))


def standing_of(chain: JournalChain, seen: set[str]) -> Standing:
    """Say how a journal stands; ``seen`` are the nodes that were seen of late."""
    shipments = list(chain.shipments.all())
    last = shipments[-1] if shipments else None
    shipped_to = max((row.last_at for row in shipments if row.last_at is not None), default=None)
    behind = _is_behind(chain, last)
    lag = 0.0
    if behind and chain.anchored_at is not None:
        lag = max((chain.anchored_at - (shipped_to or chain.started_at)).total_seconds(), 0.0)
    damaged = [row.segment for row in shipments if row.damaged]
    if chain.end in _LOST or damaged:
        state = "GAP"
        where = f"segment {damaged[0]}" if damaged else "a segment"
        detail = f"{where} was lost or changed before all of it was in the database"
    elif not chain.shipped and chain.node_name not in seen:
        state, detail = (
            "GAP",
            "its node has not been seen for an hour or more, and not all of it is in the database",
        )
    elif chain.shipped:
        state, detail = "COMPLETE", ""
    elif chain.ended_at is not None:
        state, detail = "SHIPPING", ""
    else:
        state, detail = "OPEN", ("late" if lag > LATE_S else "")
    return Standing(
        state,
        detail,
        None if chain.anchored_at is None and not chain.shipped else round(lag, 3),
        None if last is None else last.segment,
        0 if last is None else last.entries,
        shipped_to,
    )


def _is_behind(chain: JournalChain, last: JournalShipment | None) -> bool:
    if chain.shipped or chain.anchor_segment is None or chain.anchor_sequence is None:
        return False
    if last is None:
        return True
    return (last.segment, last.entries) < (chain.anchor_segment, chain.anchor_sequence + 1)
