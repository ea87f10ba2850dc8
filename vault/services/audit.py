"""Reading the audit record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL

from vault.actors import Actor
from vault.errors import NotFound
from vault.models import AuditEvent, Vault
from vault.permissions import Permission

COLUMNS = (
    "id", "at", "vault_id", "vault_name", "actor_type", "actor_id", "actor_name", "via", "source_ip", "request_id", "action",
    "target_type", "target_id", "target_name", "outcome", "reason", "generation", "before", "after", "detail",
)  # fmt: skip


def events_of_vault(actor: Actor, vault: Vault) -> QuerySet[AuditEvent]:
    """Everything that happened in a vault. Raises NotFound, PermissionDenied."""
    actor.require(Permission.AUDIT_VIEW, vault)
    return AuditEvent.objects.filter(vault=vault)


def events_of_installation(actor: Actor) -> QuerySet[AuditEvent]:
    """What the appliance admin sees: sign-ins and users, and what happened to vaults as a whole, but nothing inside them."""
    actor.require(Permission.APPLIANCE_VIEW_AUDIT)
    # Spelled as the index's own condition, without a parameter: only so does SQLite use it.
    return AuditEvent.objects.filter(Q(vault=None) | Q(target_type=RawSQL("'vault'", ())))


def fetch_event(actor: Actor, event_id: UUID) -> AuditEvent:
    """One event that the actor may see. Raises NotFound."""
    event = AuditEvent.objects.filter(id=event_id).select_related("vault").first()
    if event is not None:
        in_vault = event.vault is not None and actor.may(Permission.AUDIT_VIEW, event.vault)
        in_installation = (event.vault is None or event.target_type == "vault") and actor.may(
            Permission.APPLIANCE_VIEW_AUDIT
        )
        if in_vault or in_installation:
            return event
    raise NotFound("There is no such audit event, or it is not yours.")


@dataclass(frozen=True)
class Changed:
    """One field before and after; None where it was not there, as before a creation."""

    field: str
    before: Any
    after: Any


def diff(event: AuditEvent) -> list[Changed]:
    """What an event changed, field by field, in the order of their names; fields that stayed are left out."""
    before, after = event.before or {}, event.after or {}
    return [
        Changed(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    ]


def event_data(event: AuditEvent) -> dict[str, Any]:
    """An event as JSON values, in the order of COLUMNS."""
    values: dict[str, Any] = {}
    for name in COLUMNS:
        value = getattr(event, name)
        values[name] = value if isinstance(value, (str, int, dict, list, type(None))) else str(value)
    values["at"] = event.at.isoformat().replace("+00:00", "Z")
    return values


def as_json_lines(events: Iterable[AuditEvent]) -> Iterator[bytes]:
    """One JSON object a line."""
    for event in events:
        yield json.dumps(event_data(event), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def as_csv(events: Iterable[AuditEvent]) -> Iterator[bytes]:
    """RFC 4180 with a header line. A cell that a spreadsheet would take for a formula gets an apostrophe in front."""
    yield csv_line(COLUMNS)
    for event in events:
        cells = []
        for value in event_data(event).values():
            text = "" if value is None else value
            if isinstance(text, dict | list):
                text = json.dumps(text, ensure_ascii=False, separators=(",", ":"))
            cells.append(text)
        yield csv_line(cells)


def csv_line(cells: Iterable[Any]) -> bytes:
    """One line of RFC 4180. A cell that a spreadsheet would take for a formula (OWASP, "CSV injection") gets an apostrophe."""
    texts = ["" if cell is None else str(cell) for cell in cells]
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(
        f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text for text in texts
    )
    return line.getvalue().encode()
