"""Waiting for the data plane after a switch, and keeping on record how far it got."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import Error, models
from django.utils import timezone

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.generations import Confirmation, Missing, current_generation, wait_for_generation
from vault.models import AuditEvent

log = logging.getLogger(__name__)

CLOSING = frozenset(
    {
        Action.CLOUD_KEY_DISABLE,
        Action.CLOUD_KEY_BLOCK,
        Action.CLOUD_KEY_SCHEDULE_DELETION,
        Action.CLOUD_KEY_DESTROY,
        Action.XKS_STORE_BLOCK,
        Action.XKS_CREDENTIAL_RETIRE,
        Action.VAULT_DISABLE,
        Action.VAULT_BLOCK,
        Action.VAULT_DESTROY,
    }
)
"""What takes access away: how far the data plane followed is kept on record."""


def confirm_switch(
    actor: Actor, action: Action, target: models.Model, generation: int
) -> Confirmation | None:
    """Wait for the data plane, 2 s at most; None when it has nothing to learn. Call outside any transaction.

    For what takes access away the answer becomes an audit event, which `keystead audit prove-disable` reads.
    """
    if not generation:
        return None
    confirmation = wait_for_generation(generation)
    if action in CLOSING:
        try:
            _keep(actor, action, target, confirmation)
        except Error:
            # The switch is committed and the caller must hear how far it got, database or not.
            log.exception("how far generation %s was confirmed could not be recorded", generation)
    return confirmation


def confirm_switches(actor: Actor, action: Action, targets: Iterable[models.Model]) -> Confirmation | None:
    """As confirm_switch, for many that were closed alike: waits once, for all of it, and keeps the answer for each.

    None when there are no targets.
    """
    closed = list(targets)
    generation = current_generation()
    if not closed or not generation:
        return None
    confirmation = wait_for_generation(generation)
    for target in closed if action in CLOSING else ():
        try:
            _keep(actor, action, target, confirmation)
        except Error:
            log.exception("how far generation %s was confirmed could not be recorded", generation)
    return confirmation


def _keep(actor: Actor, action: Action, target: models.Model, confirmation: Confirmation) -> None:
    hooks, actor.before_commit = actor.before_commit, []  # they belong to the change itself
    try:
        with change(actor) as tx:
            outcome = AuditEvent.Outcome.SUCCESS if confirmation.complete else AuditEvent.Outcome.FAILURE
            tx.audit(
                Action.DATA_PLANE_CONFIRM,
                target,
                outcome=outcome,
                detail={
                    "of": action.value,
                    "generation": confirmation.generation,
                    "confirmed": confirmation.confirmed,
                    "counted": confirmation.counted,
                    "milliseconds": confirmation.milliseconds,
                    "bound_s": confirmation.bound_s,
                    "missing": list(confirmation.missing),
                },
            )
            tx.events[-1].generation = confirmation.generation
    finally:
        actor.before_commit = hooks


@dataclass(frozen=True)
class Confirmed:
    """How far the data plane has followed the last switch of a thing: as recorded, or, while some are missing, as of now.

    ``milliseconds`` is None when the last ones confirmed only after the first answer was given. ``left_s``: seconds after which
    whoever is missing refuses by itself.
    """

    at: datetime
    of: str
    confirmed: int
    counted: int
    milliseconds: int | None
    missing: tuple[Missing, ...]
    bound_s: float
    left_s: float

    @property
    def complete(self) -> bool:
        """Whether no worker can serve the older state any more."""
        return not self.missing or self.left_s <= 0


def last_confirmation(target: models.Model) -> Confirmed | None:
    """How far the last switch that closed ``target`` got; None when none was recorded. The caller has looked up the target."""
    event = (
        AuditEvent.objects.filter(
            vault_id=getattr(target, "vault_id", target.pk),
            target_id=str(target.pk),
            action=Action.DATA_PLANE_CONFIRM.value,
        )
        .order_by("-sequence")
        .first()
    )
    if event is None or event.generation is None:
        return None
    told = event.detail
    bound_s = float(told.get("bound_s", 0))
    counted, milliseconds = int(told.get("counted", 0)), int(told.get("milliseconds", 0))
    if event.outcome == AuditEvent.Outcome.SUCCESS:
        return Confirmed(event.at, str(told.get("of", "")), counted, counted, milliseconds, (), bound_s, 0.0)
    now = wait_for_generation(event.generation, timeout_s=0)
    gone_s = (timezone.now() - event.at).total_seconds()
    return Confirmed(
        at=event.at,
        of=str(told.get("of", "")),
        confirmed=now.confirmed,
        counted=now.counted,
        milliseconds=None,
        missing=now.missing_workers,
        bound_s=bound_s,
        left_s=max(0.0, bound_s - gone_s),
    )
