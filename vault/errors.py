"""Domain errors. They know nothing of HTTP; vault/api/problems.py and the HTML handlers map them."""

from __future__ import annotations

from typing import Any


class DomainError(Exception):
    """Something a person can act upon: what is wrong (`message`), where (`field`), and the way out (`cure`)."""

    code = "error"

    def __init__(self, message: str, *, field: str = "", cure: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.cure = cure
        self.context = context


class NotFound(DomainError):
    """No such object, or not yours: the two look alike."""

    code = "not_found"


class PermissionDenied(DomainError):
    """You see the object, but your role does not allow this."""

    code = "permission_denied"


class ValidationFailed(DomainError):
    """One or more fields are wrong. `errors` is a list of {field, message, cure}."""

    code = "validation_failed"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        cure: str = "",
        errors: list[dict[str, str]] | None = None,
        **context: Any,
    ) -> None:
        super().__init__(message, field=field, cure=cure, **context)
        self.errors = errors or ([{"field": field, "message": message, "cure": cure}] if field else [])


class Conflict(DomainError):
    """The object's present state does not allow this."""

    code = "conflict"


class StaleRevision(DomainError):
    """Somebody changed the object since it was read (If-Match)."""

    code = "stale_revision"


class NeedsApproval(DomainError):
    """Allowed, but only with another person's consent (DESIGN.md, "What the words do")."""

    code = "needs_approval"


class Unavailable(DomainError):
    """Something we depend on does not answer; trying again later may help."""

    code = "unavailable"


class SignInFailed(DomainError):
    """Wrong e-mail or password, or an account that may not sign in: never says which."""

    code = "sign_in_failed"


class SecondFactorRequired(DomainError):
    """The password is right, and this account has a second factor: its code is missing or wrong."""

    code = "second_factor_required"


class RateLimited(DomainError):
    """Too many attempts; context `retry_after` says in how many seconds the next is looked at."""

    code = "rate_limited"


class PasswordChangeRequired(DomainError):
    """Signed in with a one-time password; set a new one first."""

    code = "password_change_required"


class SecondFactorEnrolmentRequired(DomainError):
    """A vault of this person demands a second factor, and the account has none yet: set one up first."""

    code = "second_factor_enrolment_required"


def check_revision(instance: Any, expected: int | None) -> None:
    """Raise StaleRevision unless `expected` is None or the row's revision."""
    if expected is not None and instance.revision != expected:
        raise StaleRevision(
            f"This {instance._meta.verbose_name} has changed since you read it (now revision {instance.revision}).",
            cure="Read it again, look at what changed, and repeat your change.",
            current=instance.revision,
        )
