"""/api/v1/audit-events: who did what, to what, when, from where."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from rest_framework import serializers
from rest_framework.response import Response

from vault.actions import Action
from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import Filter, Listing, choice, filtered, moment, one_of, single, text, vault_of
from vault.api.serializers import JsonObject
from vault.models import AuditEvent
from vault.permissions import Permission
from vault.services import audit

TAG = "Audit"


class AuditEventSerializer(serializers.Serializer[Any]):
    """One event. Names are as they were then."""

    id = serializers.UUIDField()
    at = serializers.DateTimeField()
    vault_id = serializers.UUIDField(allow_null=True)
    vault_name = serializers.CharField(allow_blank=True)
    actor_type = serializers.CharField(help_text="user, token, system or anonymous.")
    actor_id = serializers.CharField(allow_blank=True)
    actor_name = serializers.CharField(allow_blank=True)
    via = serializers.CharField(help_text="api, web, cli, worker or agent.")
    source_ip = serializers.CharField(allow_null=True)
    request_id = serializers.CharField(allow_blank=True)
    action = serializers.CharField()
    target_type = serializers.CharField(allow_blank=True)
    target_id = serializers.CharField(allow_blank=True)
    target_name = serializers.CharField(allow_blank=True)
    outcome = serializers.ChoiceField(choices=AuditEvent.Outcome.choices)
    reason = serializers.CharField(allow_blank=True)
    before = JsonObject(allow_null=True)
    after = JsonObject(allow_null=True)
    detail = JsonObject()
    generation = serializers.IntegerField(allow_null=True)


EVENT = {
    "id": "f0f5f1a7-31b1-4b62-8e07-9a3c1d0e7b55",
    "at": "2026-11-22T14:00:00Z",
    "vault_id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11",
    "vault_name": "Payments",
    "actor_type": "user",
    "actor_id": "0b7c1fd0-96a8-4c8e-a1f1-5e9f1c2f7d10",
    "actor_name": "ada@example.com",
    "via": "api",
    "source_ip": "192.0.2.17",
    "request_id": "0f4b6a1e5d3c4f7a9b8c7d6e5f4a3b2c",
    "action": "vault:vault:block",
    "target_type": "vault",
    "target_id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11",
    "target_name": "Payments",
    "outcome": "SUCCESS",
    "reason": "Incident 4711",
    "before": {"state": "ENABLED", "blocked": False},
    "after": {"state": "ENABLED", "blocked": True},
    "detail": {},
    "generation": 118,
}


_IS_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9]+")


def _either(name: str, by_id: str, by_name: str, help: str) -> Filter:
    """The id, or the name as it was then."""

    def parse(value: str) -> str:
        if not value or len(value) > 254:
            raise ValueError("it must have 1 to 254 characters.")
        return value

    def apply(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
        # One column or the other: an index then gives the page in order, which it cannot for "either".
        by = by_id if _IS_ID.fullmatch(values[0]) else by_name
        return rows.filter(**{by: values[0].lower() if by == by_id else values[0]})

    return Filter(name, help, parse, apply, {"type": "string", "minLength": 1, "maxLength": 254})


FILTERS = (
    _either("person", "actor_id", "actor_name", "Who: the user's id, or the e-mail as it was then."),
    _either("object", "target_id", "target_name", "On what: the object's id, or its name as it was then."),
    text(
        "object_type",
        ("target_type__exact",),
        "On what kind of object, such as `vault` or `cloudkey`.",
        max_length=64,
    ),
    choice("action", "action", [action.value for action in Action], "What was done."),
    choice("outcome", "outcome", AuditEvent.Outcome.values, "How it ended."),
    moment("since", "at__gte", "Not before this moment."),
    moment("until", "at__lt", "Before this moment."),
    text("request_id", ("request_id__exact",), "The id of one request.", max_length=64),
)
EVENTS = Listing(orderings={"at": "sequence"}, default_ordering="-at", filters=FILTERS)


def _rows(request: Any) -> QuerySet[AuditEvent]:
    """A vault's events; those of the installation for an appliance admin who names no vault."""
    actor = request.actor
    if single(request, "vault") is None and actor.may(Permission.APPLIANCE_VIEW_AUDIT):
        return audit.events_of_installation(actor)
    return audit.events_of_vault(actor, vault_of(request, Permission.AUDIT_VIEW))


class AuditEventList(ApiView):
    """GET audit-events"""

    @operation(
        "audit_events_list",
        summary="List audit events",
        description="What happened in a vault, the newest first. An appliance admin who names no vault gets the installation's "
        "events: sign-ins, users, and what happened to vaults as a whole.",
        tag=TAG,
        response=AuditEventSerializer,
        example=EVENT,
        listing=EVENTS,
    )
    def get(self, request: Any) -> Response:
        """List events."""
        return page(request, _rows(request), EVENTS, AuditEventSerializer)


class AuditEventDetail(ApiView):
    """GET audit-events/{event_id}"""

    @operation(
        "audit_events_show",
        summary="Read an audit event",
        description="One event. Nothing changes or deletes it.",
        tag=TAG,
        response=AuditEventSerializer,
        example=EVENT,
        errors=(404,),
    )
    def get(self, request: Any, event_id: UUID) -> Response:
        """Read an event."""
        return Response(AuditEventSerializer(audit.fetch_event(request.actor, event_id)).data)


EXPORT_QUERY = (
    *FILTERS,
    one_of("as", ("csv", "jsonl"), "csv (RFC 4180) or jsonl (one JSON object a line)."),
    Filter(
        "vault",
        "The vault, as for the list.",
        str,
        lambda rows, values: rows,
        {"type": "string", "format": "uuid"},
    ),
)


class AuditEventExport(ApiView):
    """GET audit-events/export"""

    @operation(
        "audit_events_export",
        summary="Export audit events",
        description="All events that match, the oldest first, as one stream: CSV for spreadsheets (cells that would be taken for formulas "
        "get an apostrophe in front), or JSON lines.",
        tag=TAG,
        response=str,
        example='{"id":"f0f5f1a7-31b1-4b62-8e07-9a3c1d0e7b55","at":"2026-11-22T14:00:00Z","action":"vault:vault:block"}\n',
        query=EXPORT_QUERY,
        media_type="application/jsonl",
        or_answer=("text/csv", "id,at,vault_name,action\r\n"),
        errors=(404,),
    )
    def get(self, request: Any) -> Any:
        """Export events."""
        asked = single(request, "as")
        form = "jsonl" if asked is None else asked
        rows = filtered(request, _rows(request), FILTERS).order_by("sequence")
        events = rows.iterator(chunk_size=500)
        if form == "csv":
            lines, media_type = audit.as_csv(events), "text/csv; charset=utf-8"
        else:
            lines, media_type = audit.as_json_lines(events), "application/jsonl"
        return StreamingHttpResponse(
            lines,
            content_type=media_type,
            headers={"Content-Disposition": f'attachment; filename="audit-events.{form}"'},
        )
