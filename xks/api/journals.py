"""/api/v1/nodes/journal and /api/v1/audit-integrity: the record itself."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import Listing, flag, text
from xks.models import JournalChain
from xks.services.integrity import integrity_of
from xks.services.journals import Standing, journals_of_nodes, seen_nodes, standing_of


class JournalSerializer(serializers.Serializer[Any]):
    """The journal of one worker process."""

    id = serializers.UUIDField()
    node = serializers.CharField(source="node_name")
    process = serializers.CharField()
    state = serializers.CharField(
        help_text="OPEN: its worker writes. SHIPPING: ended, not all of it is in the database yet. COMPLETE. GAP: something of it is lost,"
        " or may be, because its node has not been seen for an hour."
    )
    detail = serializers.CharField(allow_blank=True)
    end = serializers.CharField(
        allow_blank=True, help_text="CLEAN, KILLED, DAMAGED or LOST; empty while it is open."
    )
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    sealed_segments = serializers.IntegerField()
    anchored_at = serializers.DateTimeField(allow_null=True, help_text="When its end was last noted.")
    anchor_segment = serializers.IntegerField(allow_null=True)
    anchor_sequence = serializers.IntegerField(
        allow_null=True, help_text="Last entry that is known to be written."
    )
    shipped_segment = serializers.IntegerField(allow_null=True)
    shipped_entries = serializers.IntegerField(help_text="Entries of that segment that are in the database.")
    shipped_to = serializers.DateTimeField(allow_null=True)
    lag_s = serializers.FloatField(
        allow_null=True, help_text="By how much what is written is newer than what is in the database."
    )

    def to_representation(self, row: JournalChain) -> dict[str, Any]:
        """Put the row and how it stands together."""
        standing: Standing = standing_of(row, self.context["seen"])
        for name in ("state", "detail", "shipped_segment", "shipped_entries", "shipped_to", "lag_s"):
            setattr(row, name, getattr(standing, name))
        return super().to_representation(row)


JOURNAL = {
    "id": "5f0c2e9a-0d6b-4f57-a1f1-f6a0c0ffee00",
    "node": "xks-1",
    "process": "a8b1f0c2-4026531836-4711-88123",
    "state": "OPEN",
    "detail": "",
    "end": "",
    "started_at": "2026-11-22T08:00:00Z",
    "ended_at": None,
    "sealed_segments": 3,
    "anchored_at": "2026-11-22T15:04:40Z",
    "anchor_segment": 3,
    "anchor_sequence": 1042,
    "shipped_segment": 3,
    "shipped_entries": 1043,
    "shipped_to": "2026-11-22T15:04:40.120034Z",
    "lag_s": 0.0,
}
JOURNALS = Listing(
    orderings={"started_at": "started_at"},
    default_ordering="-started_at",
    filters=(
        text("node", ("node_name__exact",), "Of the node with this name.", max_length=253),
        flag("shipped", "shipped", "true: only those that have ended and are in the database."),
    ),
    in_vault=False,
)


class JournalList(ApiView):
    """GET nodes/journal"""

    @operation(
        "nodes_journal",
        summary="List the journals of data-plane nodes",
        description="Each worker process writes down every use of a key before its answer leaves; this tells how much of each journal"
        " is in the database, and where something is lost.",
        tag="Nodes",
        response=JournalSerializer,
        example=JOURNAL,
        listing=JOURNALS,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        return page(request, journals_of_nodes(request.actor), JOURNALS, JournalSerializer, seen=seen_nodes())


class IntegritySerializer(serializers.Serializer[Any]):
    """What the last verification of the record found."""

    state = serializers.ChoiceField(
        choices=["UNKNOWN", "HOLDS", "OVERDUE", "BROKEN"],
        help_text="UNKNOWN: never looked at. OVERDUE: it held, hours ago. BROKEN: something is not what was written.",
    )
    checked_at = serializers.DateTimeField(allow_null=True)
    held_at = serializers.DateTimeField(allow_null=True, help_text="When it last held.")
    seconds = serializers.FloatField()
    findings = serializers.IntegerField(help_text="What is not what was written.")
    gaps = serializers.IntegerField(help_text="What was written and is not, or not yet, in the database.")
    texts = serializers.ListField(
        child=serializers.CharField(),
        help_text="The findings, for appliance admins; they may speak of any vault.",
    )
    gap_texts = serializers.ListField(child=serializers.CharField())
    seals = serializers.IntegerField()
    head = serializers.CharField(
        allow_blank=True, help_text="SHA-256 of the last seal at that time: keep it elsewhere."
    )
    segments = serializers.IntegerField()
    records = serializers.IntegerField(help_text="Records in journals that were at hand.")
    stored = serializers.IntegerField(help_text="Records of the database that were compared.")
    events = serializers.IntegerField()


INTEGRITY = {
    "state": "HOLDS",
    "checked_at": "2026-11-22T15:00:04Z",
    "held_at": "2026-11-22T15:00:04Z",
    "seconds": 3.2,
    "findings": 0,
    "gaps": 0,
    "texts": [],
    "gap_texts": [],
    "seals": 412,
    "head": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "segments": 96,
    "records": 1204333,
    "stored": 1204333,
    "events": 5120,
}


class AuditIntegrityShow(ApiView):
    """GET audit-integrity"""

    @operation(
        "audit_integrity_show",
        summary="Tell whether the record is what was written",
        description="The result of the last verification of seals, journals, records in the database and audit events, which runs about"
        " every hour. `keystead audit verify` with the public key kept elsewhere proves more: this answer comes from the"
        " installation that it speaks of.",
        tag="Audit",
        response=IntegritySerializer,
        example=INTEGRITY,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        return Response(IntegritySerializer(integrity_of(request.actor)).data)
