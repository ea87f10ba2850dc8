"""Mails. Those that carry a secret are sent at once by the process that made it, never through the task queue."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import gettext

from vault.attention import Item, Severity
from vault.models import User, Vault
from vault.secret import Secret

logger = logging.getLogger("keystead.mail")


def mail_one_time_password(user: User, password: Secret, *, reason: str) -> bool:
    """Mail a one-time password; `reason` completes "You receive this because ...".

    Call after the commit. Returns False when no mail server is set up or it did not take the mail: the caller then shows the
    password once instead. Never raises for a mail server's fault, because the account exists already.
    """
    if not settings.MAIL_CONFIGURED:
        return False
    body = render_to_string(
        "vault/mail/one_time_password.txt",
        {
            "name": user.get_full_name(),
            "email": user.email,
            "password": password.reveal_text(),
            "reason": reason,
            "url": settings.PUBLIC_URL,
            "expires_at": user.one_time_password_expires_at,
        },
    )
    return _send(user.email, gettext("Your one-time password for Keystead"), body)


def mail_membership(user: User, *, vault_name: str, role: str, by: str) -> bool:
    """Tell somebody who has an account already that a vault was opened to them. Returns whether a server took the mail."""
    if not settings.MAIL_CONFIGURED:
        return False
    context = {
        "name": user.get_full_name(),
        "vault": vault_name,
        "role": role,
        "by": by,
        "url": settings.PUBLIC_URL,
    }
    return _send(
        user.email,
        gettext("A vault was opened to you"),
        render_to_string("vault/mail/membership.txt", context),
    )


_SEVERITY = {Severity.CRITICAL: "CRITICAL", Severity.WARNING: "Warning", Severity.NOTICE: "Notice"}


def mail_attention(
    user: User, *, vault: Vault, subject: str, items: Sequence[Item], more: int, intro: str
) -> bool:
    """Tell somebody what needs attention, times in their own zone. Returns whether a server took the mail."""
    if not settings.MAIL_CONFIGURED:
        return False
    context = {
        "name": user.get_full_name(),
        "intro": intro,
        "items": [
            {
                "word": _SEVERITY[item.severity],
                "what": item.what,
                "why": item.why,
                "fix": item.fix,
                "since": item.since,
            }
            for item in items
        ],
        "more": more,
        "vault": vault.name,
        "url": settings.PUBLIC_URL,
    }
    with timezone.override(ZoneInfo(user.time_zone)):
        body = render_to_string("vault/mail/attention.txt", context)
    # A subject is one line, whatever somebody has named a thing.
    return _send(user.email, " ".join(subject.split())[:200], body)


def mail_test(user: User) -> bool:
    """Send a mail that says no more than that mails arrive. Returns whether a server took it."""
    if not settings.MAIL_CONFIGURED:
        return False
    context = {"name": user.get_full_name(), "url": settings.PUBLIC_URL}
    return _send(
        user.email, gettext("A test mail from Keystead"), render_to_string("vault/mail/test.txt", context)
    )


def _send(to: str, subject: str, body: str) -> bool:
    try:
        return EmailMessage(subject, body, settings.DEFAULT_FROM_EMAIL, [to]).send() == 1
    except (smtplib.SMTPException, OSError) as error:
        # The type only: a server's words may quote the mail.
        logger.warning("mail to %s was not taken (%s)", to, type(error).__name__)
        return False
