"""What a SIEM is told: one JSON object a line, and the same as a syslog message (docs/siem.md holds the fields)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from vault.models import AuditEvent
from xks import journal_format as form
from xks.request_rows import Row, RowReader, Withheld

MAX_MESSAGE_BYTES: Final = 8000
"""RFC 5425 asks receivers to take 8192 bytes of a message with its header; what is longer loses its large fields."""
FACILITY: Final = 13
"""Log audit (RFC 5424, table 1)."""
NOTICE: Final = 5
WARNING: Final = 4
INFO: Final = 6
_LARGE: Final = ("before", "after", "detail", "reason")


class Line(NamedTuple):
    """One event for a SIEM. ``id`` names it: one that is delivered twice carries the same."""

    id: str
    at: str
    severity: int
    kind: str
    values: dict[str, Any]

    def json(self) -> str:
        """Return the line, without its end; ASCII only."""
        return json.dumps(
            {"id": self.id, "at": self.at, "type": self.kind, **self.values}, separators=(",", ":")
        )

    def syslog(self, host: str) -> bytes:
        """Return the message of RFC 5424 in the frame of RFC 5425: its length, a space, the message."""
        text = self.json()
        if len(text) > MAX_MESSAGE_BYTES:
            omitted = [name for name in _LARGE if self.values.get(name)]
            short = {name: value for name, value in self.values.items() if name not in _LARGE}
            text = self._replace(values={**short, "omitted": omitted}).json()
        message = (
            f"<{FACILITY * 8 + self.severity}>1 {self.at} {host or '-'} keystead - {self.kind} - {text}"
        ).encode()
        return b"%d %s" % (len(message), message)


def stamp(microseconds: int) -> str:
    """Return a time as RFC 3339 has it, in UTC."""
    try:
        whole, part = divmod(microseconds, 1_000_000)
        return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{part:06d}Z"
    except (ValueError, OverflowError, OSError):
        return "9999-12-30T00:00:00.000000Z"


def line_of_entry(node: str, chain: str, segment: int, reader: RowReader, entry: form.Entry) -> Line | None:
    """Return what a journal's entry says to a SIEM; None for one that only serves the journal.

    Raises:
        SegmentDamaged: it is not what it should be.
    """
    told = reader.read(entry)
    name = f"{chain}:{segment}:{entry.sequence}"
    place = {"node": node}
    if isinstance(told, Row):
        texts = dict(zip(form.NAMED_FIELDS, (reader.names[number] for number in told.names), strict=True))
        values = {
            **place,
            **texts,
            "kms_request_id": told.kms_request_id,
            "key_version": told.version,
            "generation": told.generation,
            "microseconds": told.microseconds,
        }
        severity = INFO if texts["outcome"] == "OK" else WARNING
        return Line(name, stamp(told.at), severity, "xks_request", values)
    if isinstance(told, Withheld):
        span = {"first": f"{chain}:{segment}:{told.first}", "last": f"{chain}:{segment}:{told.last}"}
        return Line(name, stamp(int(entry.values[0])), WARNING, "xks_withheld", {**place, **span})
    if entry.kind == form.COUNTS:
        counts = [
            {"outcome": str(error), "source_ip": str(who), "count": int(n)}
            for error, who, n in entry.values[1]
        ]
        return Line(name, stamp(int(entry.values[0])), NOTICE, "xks_unsigned", {**place, "counts": counts})
    return None


def line_of_event(position: int, event: AuditEvent) -> Line:
    """Return an audit event; ``position`` is that of its link in the chain of events."""
    at = event.at.astimezone(UTC)
    values = {
        "position": position,
        "event_id": str(event.id),
        "vault_id": None if event.vault_id is None else str(event.vault_id),
        "vault_name": event.vault_name,
        "actor_type": event.actor_type,
        "actor_id": event.actor_id,
        "actor_name": event.actor_name,
        "via": event.via,
        "source_ip": event.source_ip,
        "request_id": event.request_id,
        "action": event.action,
        "target_type": event.target_type,
        "target_id": event.target_id,
        "target_name": event.target_name,
        "outcome": event.outcome,
        "reason": event.reason,
        "before": event.before,
        "after": event.after,
        "detail": event.detail,
        "generation": event.generation,
    }
    severity = INFO if event.outcome == AuditEvent.Outcome.SUCCESS else WARNING
    return Line(f"audit:{position}", f"{at:%Y-%m-%dT%H:%M:%S.%f}Z", severity, "audit_event", values)
