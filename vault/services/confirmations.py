"""Waiting for the data plane after a switch, and keeping on record how far it got."""

from __future__ import annotations

import logging

from django.db import Error, models

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.generations import Confirmation, wait_for_generation
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
