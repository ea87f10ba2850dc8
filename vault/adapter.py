"""What Keystead asks of django-allauth: its pages sign in, out and change passwords by our own services."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.usersessions.adapter import DefaultUserSessionsAdapter
from allauth.usersessions.models import UserSession
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.urls import reverse

from vault import keys
from vault.actors import Actor
from vault.errors import RateLimited, SignInFailed, ValidationFailed
from vault.models import User
from vault.secret import Secret
from vault.services import sessions, users

logger = logging.getLogger("keystead.web")
_MFA_PURPOSE = "allauth.mfa"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts are made by administrators; nobody signs up. Limits, audit and one-time passwords are those of the API."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Return False, always."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The caller's address; vault.middleware has looked through trusted proxies already."""
        return str(request.META.get("REMOTE_ADDR") or "127.0.0.1")

    def authenticate(self, request: HttpRequest, **credentials: Any) -> AbstractBaseUser | None:
        """The person with these credentials, or None. Raises a form error after too many failures."""
        try:
            return sessions.verify_password(
                _actor(request),
                str(credentials.get("email") or ""),
                Secret(credentials.get("password") or ""),
            )
        except SignInFailed:
            return None
        except RateLimited:
            raise self.validation_error("too_many_login_attempts") from None

    def reauthenticate(self, user: AbstractBaseUser, password: str) -> bool:
        """Whether `password` is the user's. Overridden because allauth looks the e-mail up in a table that we do not fill."""
        found = self.authenticate(context.request, email=user.get_username(), password=password)
        return found is not None and found.pk == user.pk

    def login(self, request: HttpRequest, user: AbstractBaseUser) -> None:
        """Begin the session and record it."""
        person = cast("User", user)
        sessions.begin_session(request, _actor(request), person)

    def logout(self, request: HttpRequest) -> None:
        """End the session and record it."""
        sessions.sign_out(request, _actor(request))

    def clean_password(self, password: str, user: AbstractBaseUser | None = None) -> str:
        """Refuse what the API refuses. Raises a form error."""
        if isinstance(user, User):
            try:
                users.check_new_password(user, Secret(password))
            except ValidationFailed as error:
                raise ValidationError([found["message"] for found in error.errors]) from None
        return password

    def set_password(self, user: AbstractBaseUser, password: str) -> None:
        """Store the new password, which ends the duty to change a one-time password, and record it."""
        users.replace_password(_actor(context.request), cast("User", user), Secret(password))

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """The page asked for; first of all the password page for somebody with a one-time password."""
        if getattr(request.user, "must_change_password", False):
            return reverse("account_change_password")
        return str(super().get_login_redirect_url(request))

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        """The first page."""
        return reverse("home")

    def send_notification_mail(
        self,
        template_prefix: str,
        user: AbstractBaseUser,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        """Tell a person of a change to the account. Overridden because our texts name it."""
        super().send_notification_mail(template_prefix, user, {"user": user, **(context or {})}, email)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send a notice. What it tells of has happened already, so a mail server's fault must not fail the request."""
        try:
            super().send_mail(template_prefix, email, context)
        except (smtplib.SMTPException, OSError) as error:
            logger.warning("a notice by mail was not taken (%s)", type(error).__name__)


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Seeds of second factors are wrapped like every other secret; what goes wrong is said in our words."""

    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultMFAAdapter.error_messages,
        "cannot_delete_authenticator": "This is your last second factor, and it cannot be removed.",
        "cannot_generate_recovery_codes": "Recovery codes stand in for a second factor: set one up first.",
        "incorrect_code": "This code is not right, or it was used already. Wait for the next one, and check the clock of the phone.",
    }

    def encrypt(self, text: str) -> str:
        """Wrap under the installation's KEK."""
        return keys.seal_text(_MFA_PURPOSE, text)

    def decrypt(self, encrypted_text: str) -> str:
        """Unwrap. Raises vault.keys.SecretUnreadable."""
        return keys.unseal_text(_MFA_PURPOSE, encrypted_text).reveal_text()

    def generate_authenticator_name(self, user: AbstractBaseUser, type: Authenticator.Type) -> str:
        """A name to begin with for one more passkey."""
        number = Authenticator.objects.filter(user_id=user.pk, type=type).count() + 1
        return f"Passkey {number}"


class SessionsAdapter(DefaultUserSessionsAdapter):  # type: ignore[misc]
    """Sessions ended through the page are recorded like those ended through the API."""

    def end_sessions(self, sessions_to_end: Iterable[UserSession]) -> None:
        """End the person's own sessions."""
        actor = _actor(context.request)
        for session in sessions_to_end:
            sessions.revoke_session(actor, session.pk)


def _actor(request: HttpRequest) -> Actor:
    """Whoever asks, through the web pages; anonymous before sign-in."""
    user = request.user if isinstance(request.user, User) else None
    return Actor(
        user=user,
        via="web",
        source_ip=request.META.get("REMOTE_ADDR") or None,
        request_id=str(getattr(request, "request_id", ""))[:64],
    )
