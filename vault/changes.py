"""One change = one transaction = row + audit event + generation (DESIGN.md, the picture)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import models, transaction

from vault.actions import Action
from vault.actors import Actor
from vault.event_chain import write_events
from vault.generations import raise_generation
from vault.models import AuditEvent, GenerationChange, Vault


@dataclass
class Change:
    """What a running change has collected. `generation` is set when the data plane has something to learn."""

    actor: Actor
    events: list[AuditEvent] = field(default_factory=list)
    touched: dict[tuple[GenerationChange.Kind, UUID], None] = field(default_factory=dict)
    generation: int | None = None

    def audit(
        self,
        action: Action,
        target: models.Model | None,
        *,
        vault: Vault | None = None,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
        detail: dict[str, Any] | None = None,
        reason: str = "",
        outcome: AuditEvent.Outcome = AuditEvent.Outcome.SUCCESS,
        target_type: str = "",
        target_id: str = "",
        target_name: str = "",
    ) -> None:
        """Note an event; it is written at the end of the transaction. `before` and `after` never hold secrets."""
        if vault is None:
            vault = target if isinstance(target, Vault) else getattr(target, "vault", None)
        self.events.append(
            new_event(
                self.actor,
                action,
                target,
                vault=vault,
                before=before,
                after=after,
                detail=detail,
                reason=reason,
                outcome=outcome,
                target_type=target_type,
                target_id=target_id,
                target_name=target_name,
            )
        )

    def touch(self, kind: GenerationChange.Kind, object_id: UUID) -> None:
        """Tell the data plane that this object changed (or went away)."""
        self.touched[(kind, object_id)] = None


def new_event(
    actor: Actor,
    action: Action,
    target: models.Model | None,
    *,
    vault: Vault | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    detail: dict[str, Any] | None = None,
    reason: str = "",
    outcome: AuditEvent.Outcome = AuditEvent.Outcome.SUCCESS,
    target_type: str = "",
    target_id: str = "",
    target_name: str = "",
) -> AuditEvent:
    """An unsaved event; names are copied as text."""
    return AuditEvent(
        vault=vault,
        vault_name=vault.name if vault is not None else "",
        actor_type=actor.kind,
        actor_id=actor.id,
        actor_name=actor.display_name[:254],
        via=actor.via,
        source_ip=actor.source_ip,
        request_id=actor.request_id,
        action=action.value,
        target_type=target_type or (target._meta.model_name or "" if target is not None else ""),
        target_id=target_id or (str(target.pk) if target is not None else ""),
        target_name=(target_name or (str(target) if target is not None else ""))[:254],
        outcome=outcome,
        reason=reason[:1000],
        before=before,
        after=after,
        detail=detail or {},
    )


_current: ContextVar[Change | None] = ContextVar("keystead_change", default=None)


@contextmanager
def change(actor: Actor) -> Iterator[Change]:
    """Open a transaction whose audit events and generation are written last; a nested call joins the outer one."""
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    collected = Change(actor)
    token = _current.set(collected)
    try:
        with transaction.atomic():
            yield collected
            for hook in actor.before_commit:
                hook(collected)
            if collected.touched:
                collected.generation = raise_generation(collected.touched)
                for event in collected.events:
                    event.generation = collected.generation
            write_events(collected.events)
    finally:
        _current.reset(token)


def record_refusal(
    actor: Actor, action: Action, *, target_name: str = "", reason: str = "", **detail: Any
) -> None:
    """Write an event for something that was denied and so has no transaction of its own."""
    event = new_event(
        actor,
        action,
        None,
        outcome=AuditEvent.Outcome.DENIED,
        reason=reason,
        target_name=target_name,
        detail=detail,
    )
    with transaction.atomic():
        write_events([event])


def snapshot(instance: models.Model, *names: str) -> dict[str, Any]:
    """Fields of a row as JSON values, for `before` and `after`; refuses wrapped secrets."""
    values: dict[str, Any] = {}
    for name in names:
        model_field = instance._meta.get_field(name)
        if isinstance(model_field, models.BinaryField):
            raise TypeError(f"{name} holds bytes and never enters the audit record")
        value = model_field.value_from_object(instance)  # type: ignore[union-attr]
        values[name] = (
            value if isinstance(value, (str, int, bool, float, list, dict, type(None))) else str(value)
        )
    return values
