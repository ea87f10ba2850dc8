"""The seam of dual control: every act that gives access back, or takes data away for good, passes here."""

from __future__ import annotations

from django.db import models

from vault.actions import Action
from vault.actors import Actor
from vault.errors import NeedsApproval

GUARDED = frozenset(
    {
        Action.CLOUD_KEY_ENABLE,
        Action.CLOUD_KEY_UNBLOCK,
        Action.CLOUD_KEY_SCHEDULE_DELETION,
        Action.CLOUD_KEY_DESTROY,
        Action.XKS_STORE_UNBLOCK,
        Action.VAULT_ENABLE,
        Action.VAULT_UNBLOCK,
        Action.VAULT_DESTROY,
    }
)


def check_approval(actor: Actor, action: Action, target: models.Model) -> None:
    """Raise NeedsApproval when `action` on `target` needs another person's consent and has none.

    No vault can demand approval yet (the approval flow is its own issue), so today the answer is always yes;
    callers must still come through here. A guarded action that does not is found by a test.
    """
    if action not in GUARDED:
        raise ValueError(f"{action} is not a guarded action")
    required = getattr(getattr(target, "vault", target), "approvals_required", 0)
    if required:
        raise NeedsApproval(
            f"{action.value} needs the consent of another person.",
            cure="Ask a colleague to approve the request.",
        )
