"""Who a session belongs to, with what each page asks of them, in one query."""

from __future__ import annotations

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend

from vault.models import User


class SignInBackend(AuthenticationBackend):  # type: ignore[misc]
    """As allauth's; the person comes with their preferences, so that every browser of theirs draws the next page as they wish."""

    def get_user(self, user_id: Any) -> User | None:
        """The person of a session; None when there is none or they may not sign in."""
        user = User.objects.select_related("preferences").filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None
