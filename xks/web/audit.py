"""Audit: who did what, to what, when, through what; and whether the record still is what was written.

In this room, because the state of the record is known here. The appliance's page shows what belongs to no vault.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext, gettext_noop

from cloudkeys.web.links import object_url
from vault.actions import Action
from vault.api.audit_events import EVENTS
from vault.api.listing import Filter, Listing
from vault.errors import NotFound
from vault.models import AuditEvent, Membership, Vault
from vault.permissions import Permission
from vault.services import audit
from vault.web.frame import appliance_page, page, vault_page
from vault.web.lists import Column, FilterMenu, filled, list_page, read_list
from xks.services.integrity import integrity_of

IN_VAULT, OF_APPLIANCE = Permission.AUDIT_VIEW, Permission.APPLIANCE_VIEW_AUDIT
EXPORT = "/api/v1/audit-events/export"
MOST_PEOPLE = 100
COLUMNS = (
    Column("at", gettext_noop("When"), ordering="at", always=True),
    Column("action", gettext_noop("What")),
    Column("object", gettext_noop("On what")),
    Column("person", gettext_noop("Who")),
    Column("outcome", gettext_noop("Outcome")),
    Column("reason", gettext_noop("Reason"), shown=False),
    Column("via", gettext_noop("Through"), shown=False),
    Column("source", gettext_noop("From address"), shown=False),
    Column("request", gettext_noop("Request id"), shown=False),
)
OUTCOMES = (
    ("SUCCESS", gettext_noop("Done")),
    ("FAILURE", gettext_noop("Failed")),
    ("DENIED", gettext_noop("Refused")),
)
SPANS = (
    ("1h", gettext_noop("Last hour"), 1),
    ("24h", gettext_noop("Last 24 hours"), 24),
    ("7d", gettext_noop("Last 7 days"), 168),
    ("30d", gettext_noop("Last 30 days"), 720),
)
_VERBS = {
    "csp": "CSP",
    "xks": "XKS",
    "aws": "AWS",
    "api": "API",
    "csv": "CSV",
    "siem": "SIEM",
    "totp": "TOTP",
    "kms": "KMS",
}
HELP = {
    "title": gettext_noop("What the audit record is"),
    "words": (
        (
            gettext_noop(
                "Every change, every refused attempt and every sign-in is an event, written in the same transaction as what it tells of. "
                "Nothing in Keystead changes or deletes one. Names are as they were then."
            )
        ),
        (
            gettext_noop(
                "Events are linked in a chain, the chain is sealed with a signature, and Keystead verifies it every hour. "
                "Somebody who alters the database by hand is found out by the next verification."
            )
        ),
        gettext_noop(
            "What AWS asked of a key is in the journal, not here: see the key's use, or Find a request."
        ),
    ),
    "links": (
        (gettext_noop("The journal and its proof"), "journal"),
        (gettext_noop("Send it to a SIEM"), "siem"),
    ),
}


# --- reading what was asked -----------------------------------------------------------------------------------------


def _moment_in(zone: ZoneInfo, *, end: bool) -> Any:
    """A parser of a date or time as a person types it, in their own zone; with an offset, as the API takes it."""

    def parse(text: str) -> datetime:
        try:
            found = parse_datetime(text)
            # parse_datetime also reads a bare date.
            if (day := parse_date(text) if len(text) <= 10 else None) is not None:
                found = datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(days=1 if end else 0)
            if found is None:
                raise ValueError
            return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{text[:60]!r} is no date or time, such as 2026-11-22 or 2026-11-22T14:00."
            ) from None

    return parse


def _span(text: str) -> datetime:
    hours = next((hours for name, _, hours in SPANS if name == text), None)
    if hours is None:
        raise ValueError(f"{text[:20]!r} is not one of {', '.join(name for name, _, _ in SPANS)}.")
    return timezone.now() - timedelta(hours=hours)


def listing_in(zone: ZoneInfo) -> Listing:
    """The API's list, with times as a person types them, and `within` the last so many hours or days."""
    parsers = {"since": _moment_in(zone, end=False), "until": _moment_in(zone, end=True)}
    filters = tuple(replace(f, parse=parsers[f.name]) if f.name in parsers else f for f in EVENTS.filters)
    within = Filter(
        "within", "Within the last hours or days.", _span, lambda rows, values: rows.filter(at__gte=values[0])
    )
    return replace(EVENTS, filters=(*filters, within))


def words_of(action: str) -> str:
    """cloudkeys:cloud_key:disable is "Cloud key: disable"."""
    subject, _, verb = action.partition(":")[2].partition(":")
    text = f"{subject}: {verb}" if verb else subject or action
    words = text.replace("_", " ").replace(".", " ").split(" ")
    told = " ".join(
        _VERBS.get(word.rstrip(":"), word.rstrip(":")) + (":" if word.endswith(":") else "") for word in words
    )
    return told[:1].upper() + told[1:]


def _menus() -> tuple[FilterMenu, ...]:
    return (
        FilterMenu("outcome", gettext("Outcome"), OUTCOMES),
        FilterMenu("within", gettext("Time"), tuple((name, words) for name, words, _ in SPANS), many=False),
    )


def _export_query(request: Any, listing: Listing, vault: Vault | None) -> str:
    """What is filtered now, as the API's export takes it: times with their offset."""
    given = filled(request.GET)
    found: list[tuple[str, str]] = [("vault", str(vault.pk))] if vault is not None else []
    known = {f.name: f for f in listing.filters}
    for name, values in given.lists():
        if name not in known:
            continue
        for value in values:
            text = value.strip()
            if name in ("since", "until", "within"):
                try:
                    text = known[name].parse(text).isoformat()
                except ValueError:
                    continue  # the page says what is wrong with it, and offers no export
            target = "since" if name == "within" else name
            if (target == "since" and any(key == "since" for key, _ in found)) and name == "within":
                continue
            found.append((target, text))
    return urlencode(found)


# --- pages ----------------------------------------------------------------------------------------------------------


@vault_page(IN_VAULT, methods=("GET", "HEAD"))
def event_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/audit/"""
    people = list(
        Membership.objects.filter(vault=vault)
        .order_by("user__email")
        .values_list("user__email", flat=True)[:MOST_PEOPLE]
    )
    return _list(request, vault, audit.events_of_vault(request.actor, vault), people)


@appliance_page(OF_APPLIANCE, methods=("GET", "HEAD"))
def appliance_event_list(request: Any) -> HttpResponse:
    """GET /appliance/audit/"""
    return _list(request, None, audit.events_of_installation(request.actor), [])


def _list(request: Any, vault: Vault | None, rows: Any, people: list[str]) -> HttpResponse:
    listing = listing_in(ZoneInfo(request.actor.user.time_zone or "UTC"))
    # No total: counting a million events takes longer than reading a page of them. `before`, `after` and `detail` may be long.
    found = read_list(
        request,
        rows.defer("before", "after", "detail"),
        listing,
        COLUMNS,
        id="audit",
        row_template="xks/audit/row.html",
        menus=_menus(),
        total=False,
        filters_template="xks/audit/filters.html",
        tools_template="xks/audit/tools.html",
        actions=[(action.value, words_of(action.value)) for action in Action],
        people=people,
        given={f.name: request.GET.get(f.name, "") for f in listing.filters},
        export=f"{EXPORT}?{_export_query(request, listing, vault)}",
        vault=vault,
        empty_title=gettext("Nothing has happened yet"),
        empty_words=gettext("Every change and every refused attempt in this vault will stand here."),
    )
    for event in found.rows:
        event.words = words_of(event.action)
        event.url = _event_url(vault, event)
    context = {"help": HELP, "integrity": integrity_of(request.actor), "of_vault": vault is not None}
    return list_page(request, "xks/audit/list.html", found, context)


def _event_url(vault: Vault | None, event: AuditEvent) -> str:
    if vault is None:
        return reverse("appliance-audit-event", args=[event.id])
    return reverse("audit-event", args=[vault.pk, event.id])


@vault_page(IN_VAULT, methods=("GET", "HEAD"))
def event_detail(request: Any, vault: Vault, event_id: UUID) -> HttpResponse:
    """GET /v/<id>/audit/<event>/"""
    event = audit.fetch_event(request.actor, event_id)
    if event.vault_id != vault.pk:
        raise NotFound("There is no such audit event, or it is not yours.")
    return _detail(request, vault, event, reverse("audit", args=[vault.pk]))


@appliance_page(OF_APPLIANCE, methods=("GET", "HEAD"))
def appliance_event_detail(request: Any, event_id: UUID) -> HttpResponse:
    """GET /appliance/audit/<event>/"""
    event = audit.events_of_installation(request.actor).filter(id=event_id).first()
    if event is None:
        raise NotFound("There is no such audit event, or it is not yours.")
    return _detail(request, None, event, reverse("appliance-audit"))


def _detail(request: Any, vault: Vault | None, event: AuditEvent, back: str) -> HttpResponse:
    changed = [
        row
        for each in audit.diff(event)
        if any((row := (each.field.replace("_", " "), _text(each.before), _text(each.after)))[1:])
    ]
    around = [
        (words, f"{back}?{urlencode(query)}")
        for words, query in (
            (gettext("Same request"), {"request_id": event.request_id}),
            (gettext("Same object"), {"object": event.target_id or event.target_name}),
            (gettext("Same person"), {"person": event.actor_id or event.actor_name}),
        )
        if all(query.values())
    ]
    context = {
        "event": event,
        "words": words_of(event.action),
        "changed": changed,
        "detail": [(name.replace("_", " "), _text(value)) for name, value in (event.detail or {}).items()],
        "around": around,
        "back": back,
        "target_url": object_url(vault, event.target_type, event.target_id) if vault is not None else "",
        "as_json": json.dumps(audit.event_data(event), indent=2, ensure_ascii=False),
        "help": HELP,
    }
    return page(request, "xks/audit/detail.html", context)


def _text(value: Any) -> str | None:
    """A value as one reads it; None stays None, so that an absent value shows as such."""
    if value is None or isinstance(value, str):
        return value
    if value in ({}, []):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return ", ".join(str(each) for each in value)
    return json.dumps(value, ensure_ascii=False)
