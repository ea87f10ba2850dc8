"""Vaults may demand a second factor of their members. Asked at every request of a session, so that nothing escapes it."""

from __future__ import annotations

from typing import Any

from allauth.mfa.models import Authenticator
from django.db.models import QuerySet

from vault.actors import Actor
from vault.errors import SecondFactorEnrolmentRequired, ValidationFailed
from vault.models import User, Vault


def has_second_factor(user: User) -> bool:
    """Whether the account has an authenticator; recovery codes alone are none."""
    return Authenticator.objects.filter(user=user).exclude(type=Authenticator.Type.RECOVERY_CODES).exists()


def vaults_that_demand(user: User) -> QuerySet[Vault]:
    """The person's living vaults that demand a second factor."""
    living = Vault.objects.exclude(state=Vault.State.DESTROYED)
    return living.filter(require_second_factor=True, memberships__user=user)


def must_enrol(user: Any) -> bool:
    """Whether the person has to set up a second factor before anything else. One query where no vault demands it."""
    return isinstance(user, User) and vaults_that_demand(user).exists() and not has_second_factor(user)


def require_enrolled(user: User) -> None:
    """Raise SecondFactorEnrolmentRequired for somebody who has to set up a second factor first."""
    if must_enrol(user):
        raise SecondFactorEnrolmentRequired(
            "A vault that you belong to demands a second factor, and your account has none."
        )


def require_own(actor: Actor) -> None:
    """Refuse whoever would demand of others what they lack, and so lock themselves out. Raises ValidationFailed."""
    if actor.trusted or (actor.user is not None and has_second_factor(actor.user)):
        return
    raise ValidationFailed(
        "You have no second factor yourself, and would be shut out at once.",
        field="require_second_factor",
        cure="Set up an authenticator for your own account first.",
    )
