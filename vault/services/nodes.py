"""Nodes: accepting a database that went backwards, and telling once when a node has fallen silent."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NotFound
from vault.generations import current_generation
from vault.models import AuditEvent, Node
from vault.node_alarms import CODES, SILENCE, silence_of
from vault.permissions import Permission

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accepted:
    """A node that may take over the older database."""

    node: Node
    held_generation: int
    """What the node holds, and lets go of."""
    accepted_generation: int
    """What the database held when it was accepted."""


def accept_rollback(actor: Actor, node_id: UUID | None = None, *, reason: str = "") -> list[Accepted]:
    """Let nodes (one, or all that refuse) take over a database that went backwards.

    What was disabled, blocked or revoked in the part of history that is lost takes no effect any more. Accepted is
    what each node refuses at this moment: should the database go back once more, it must be accepted once more.

    Raises PermissionDenied, NotFound, Conflict when nothing is refused.
    """
    actor.require(Permission.APPLIANCE_MANAGE_NODES)
    with change(actor) as tx:
        rows = Node.objects.select_for_update().order_by("name")
        if node_id is not None:
            rows = rows.filter(pk=node_id)
            if not rows.exists():
                raise NotFound("There is no such node.")
        generation = current_generation()
        accepted: list[Accepted] = []
        for node in rows.exclude(refused_mark=""):
            if node.accepted_mark == node.refused_mark:
                continue
            node.accepted_mark = node.refused_mark
            node.save(update_fields=["accepted_mark"])
            held = node.refused_from or 0
            accepted.append(Accepted(node, held, generation))
            tx.audit(
                Action.ROLLBACK_ACCEPT,
                node,
                reason=reason,
                detail={"held_generation": held, "accepted_generation": generation},
            )
        if not accepted:
            raise Conflict(
                "No node refuses the database.",
                cure="Look at the alarms: keystead xks node list. A node says so within a second or two of its agent's start.",
            )
    return accepted


def watch_nodes(actor: Actor) -> int:
    """Raise the alarm for nodes that have fallen silent: log, row and audit event, once each. Returns how many.

    That a node is back is told by its own agent. Any number of these may run at once.
    """
    raised = 0
    silent = Q(deregistered_at=None, last_seen_at__lt=Now())
    for found in Node.objects.filter(silent).annotate(read_at=Now()):
        read_at: datetime = found.read_at
        code = silence_of(found, read_at)
        if code is None or any(alarm["code"] == code for alarm in found.alarms):
            continue
        with change(actor) as tx:
            node = Node.objects.select_for_update().get(pk=found.pk)
            if node.last_seen_at != found.last_seen_at or node.alarms != found.alarms:
                continue  # it is back, or another sweep has told
            since = node.last_seen_at.isoformat().replace("+00:00", "Z")
            detail = f"Nothing has been heard of the node since {since}."
            kept = [alarm for alarm in node.alarms if alarm["code"] not in SILENCE]
            node.alarms = [*kept, {"code": code, "since": since, "detail": detail}]
            node.save(update_fields=["alarms"])
            tx.audit(
                Action.NODE_ALARM,
                node,
                outcome=AuditEvent.Outcome.FAILURE,
                detail={"code": code, "since": since, "detail": detail},
            )
        log.critical("node %s: %s %s", node.name, CODES[code], detail)
        raised += 1
    return raised


def tell_alarms(actor: Actor, node: Node, alarms: list[dict[str, str]]) -> None:
    """Write an agent's alarms into its row, and an audit event for each that is new or over. In one transaction."""
    with change(actor) as tx:
        row = Node.objects.select_for_update().get(pk=node.pk)
        before = {alarm["code"]: alarm for alarm in row.alarms}
        after = {alarm["code"]: alarm for alarm in alarms}
        row.alarms = alarms
        row.save(update_fields=["alarms"])
        for code in after.keys() - before.keys():
            tx.audit(Action.NODE_ALARM, row, outcome=AuditEvent.Outcome.FAILURE, detail=dict(after[code]))
        for code in before.keys() - after.keys():
            tx.audit(Action.NODE_ALARM_OVER, row, detail=dict(before[code]))
