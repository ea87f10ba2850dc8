"""People: made by administrators, with a one-time password that must be changed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from vault import env, mail
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change, snapshot
from vault.errors import Conflict, NotFound, PermissionDenied, ValidationFailed
from vault.models import User
from vault.permissions import Permission
from vault.secret import Secret

ONE_TIME_PASSWORD_LIFETIME = timedelta(days=7)
# No letters or digits that are taken for each other; 20 of 31 are 99 random bits.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_AUDITED = ("email", "name", "is_active", "is_appliance_admin", "must_change_password", "time_zone")


def new_one_time_password() -> Secret:
    """Four groups of five characters that can be read aloud."""
    characters = [secrets.choice(_ALPHABET) for _ in range(20)]
    return Secret("-".join("".join(characters[i : i + 5]) for i in range(0, 20, 5)))


def normal_email(text: str, *, field: str = "email") -> str:
    """The form in which an e-mail address is stored and compared: trimmed, lower case. Raises ValidationFailed."""
    email = text.strip().lower()
    try:
        validate_email(email)
        if len(email) > 254 or not email.isascii():
            raise ValidationError("")
    except ValidationError:
        raise ValidationFailed(
            "This is no e-mail address.", field=field, cure="Write name@domain, in ASCII."
        ) from None
    return email


def find_or_make_user(
    tx: Change, email: str, name: str, *, field: str = "email"
) -> tuple[User, Secret | None]:
    """The user with that address, or a new one with a one-time password (second value; None for an existing user).

    An existing user's name and password are left alone: whoever may add members to one vault has no say over a person who
    also belongs to others. Call inside the change `tx`. Raises ValidationFailed for a disabled user.
    """
    email = normal_email(email, field=field)
    found = User.objects.filter(email=email).first()
    if found is None:
        password = new_one_time_password()
        try:
            with transaction.atomic():
                user = User.objects.create_user(
                    email,
                    password.reveal_text(),
                    name=name.strip(),
                    must_change_password=True,
                    one_time_password_expires_at=timezone.now() + ONE_TIME_PASSWORD_LIFETIME,
                )
        except IntegrityError:  # made by somebody else in this moment
            found = User.objects.get(email=email)
        else:
            tx.audit(Action.USER_CREATE, user, after=snapshot(user, *_AUDITED), target_name=user.email)
            return user, password
    if not found.is_active:
        raise ValidationFailed(
            "The account with this e-mail address is disabled.",
            field=field,
            cure="Ask an appliance admin to enable it.",
        )
    return found, None


def ensure_first_admin() -> str | None:
    """Make the first appliance administrator, unless there is one; return its one-time password, if it was given one.

    The address is KEYSTEAD_ADMIN_EMAIL; KEYSTEAD_ADMIN_PASSWORD, when set, is the password (nothing is returned then). May
    be called at every start, by several processes at once.
    """
    if User.objects.filter(is_appliance_admin=True, is_active=True).exists():
        return None
    email = normal_email(env.get("KEYSTEAD_ADMIN_EMAIL"))
    given: str | None = env.get("KEYSTEAD_ADMIN_PASSWORD")
    password = Secret(given) if given is not None else new_one_time_password()
    actor = Actor.system("cli", "keystead first start")
    try:
        with change(actor) as tx:
            user = User.objects.filter(email=email).first()
            if user is not None:  # known as a member of a vault: gets the right, keeps the password
                user.is_appliance_admin = user.is_active = True
                user.save(update_fields=["is_appliance_admin", "is_active"])
                tx.audit(Action.USER_UPDATE, user, after=snapshot(user, *_AUDITED), target_name=user.email)
                return None
            user = User(email=email, name="Appliance admin", is_appliance_admin=True)
            user.set_password(password.reveal_text())
            if given is None:
                user.must_change_password = True
                user.one_time_password_expires_at = timezone.now() + ONE_TIME_PASSWORD_LIFETIME
            user.save(force_insert=True)
            tx.audit(Action.USER_CREATE, user, after=snapshot(user, *_AUDITED), target_name=user.email)
    except IntegrityError:  # another process was first
        return None
    return password.reveal_text() if given is None else None


def accounts(actor: Actor) -> QuerySet[User]:
    """Everybody who has an account. Raises PermissionDenied for others than the appliance admin."""
    actor.require(Permission.APPLIANCE_MANAGE_USERS)
    return User.objects.all()


def fetch_account(actor: Actor, user_id: UUID) -> User:
    """One account. Raises NotFound, PermissionDenied."""
    user = accounts(actor).filter(pk=user_id).first()
    if user is None:
        raise NotFound("There is no such account.")
    return user


def disable_account(actor: Actor, user_id: UUID, *, reason: str) -> User:
    """Lock a person out at once: sessions end, API tokens are refused. Roles and groups stay, for when it is enabled again.

    Raises Conflict for one's own account, NotFound, PermissionDenied.
    """
    return _set_active(actor, user_id, False, reason)


def enable_account(actor: Actor, user_id: UUID, *, reason: str = "") -> User:
    """Let a person sign in again; their tokens that have not ended meanwhile work again too. Raises NotFound, PermissionDenied."""
    return _set_active(actor, user_id, True, reason)


def _set_active(actor: Actor, user_id: UUID, active: bool, reason: str) -> User:
    with change(actor) as tx:
        user = accounts(actor).select_for_update().filter(pk=user_id).first()
        if user is None:
            raise NotFound("There is no such account.")
        if not active and actor.user is not None and user.pk == actor.user.pk:
            raise Conflict(
                "This is your own account, and nobody might be left to enable it.",
                cure="Ask another appliance admin.",
            )
        if user.is_active != active:
            before = snapshot(user, *_AUDITED)
            user.is_active = active
            user.save(update_fields=["is_active"])
            tx.audit(
                Action.USER_UPDATE,
                user,
                before=before,
                after=snapshot(user, *_AUDITED),
                reason=reason,
                target_name=user.email,
            )
    return user


@dataclass(frozen=True)
class Issued:
    """A one-time password that replaced a person's password."""

    user: User
    password: Secret


def issue_one_time_password(actor: Actor, email: str) -> Issued:
    """Replace a person's password by a one-time password, ending every session. For the appliance admin only.

    The caller mails or shows it. Raises PermissionDenied, NotFound, ValidationFailed.
    """
    actor.require(Permission.APPLIANCE_MANAGE_USERS)
    password = new_one_time_password()
    with change(actor) as tx:
        user = User.objects.select_for_update().filter(email=normal_email(email)).first()
        if user is None:
            raise NotFound("There is no person with this e-mail address.", field="email")
        user.set_password(password.reveal_text())
        user.must_change_password = True
        user.one_time_password_expires_at = timezone.now() + ONE_TIME_PASSWORD_LIFETIME
        user.save(update_fields=["password", "must_change_password", "one_time_password_expires_at"])
        tx.audit(Action.PASSWORD_CHANGE, user, detail={"one_time": True}, target_name=user.email)
    return Issued(user, password)


def mail_issued(issued: Issued) -> bool:
    """Mail it; False when it must be shown instead."""
    return mail.mail_one_time_password(
        issued.user,
        issued.password,
        reason="an administrator of Keystead has given you a new one-time password",
    )


def check_new_password(user: User, new: Secret, *, field: str = "new_password") -> None:
    """Raise ValidationFailed unless `new` may become the user's password: the validators of the settings, and not the old."""
    text = new.reveal_text()
    try:
        validate_password(text, user)
    except ValidationError as error:
        errors = [
            {"field": field, "message": message, "cure": "Choose at least 12 characters that nobody guesses."}
            for message in error.messages
        ]
        raise ValidationFailed(errors[0]["message"], field=field, errors=errors) from None
    if user.check_password(text):
        raise ValidationFailed("This is the password you have now.", field=field, cure="Choose another one.")


def replace_password(actor: Actor, user: User, new: Secret) -> None:
    """Store a new password of the signed-in person's own, which ends the duty to change a one-time password.

    All other sessions end, because a session is bound to the password's hash. The caller has checked the present password.
    Raises ValidationFailed.
    """
    check_new_password(user, new)
    with change(actor) as tx:
        user.set_password(new.reveal_text())
        user.must_change_password = False
        user.one_time_password_expires_at = None
        user.save(update_fields=["password", "must_change_password", "one_time_password_expires_at"])
        tx.audit(Action.PASSWORD_CHANGE, user, target_name=user.email)


def update_profile(actor: Actor, *, name: str | None = None, time_zone: str | None = None) -> User:
    """Change what a person says of themselves. Raises ValidationFailed, PermissionDenied for a token."""
    if actor.user is None or actor.token is not None:
        raise PermissionDenied(
            "Profiles are changed by people, not by tokens.", cure="Sign in with e-mail and password."
        )
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = name.strip()
    if time_zone is not None:
        try:
            ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValidationFailed(
                "There is no such time zone.", field="time_zone", cure="Write a name such as Europe/Berlin."
            ) from None
        values["time_zone"] = time_zone
    with change(actor) as tx:
        user = User.objects.select_for_update().get(pk=actor.user.pk)
        before = snapshot(user, *_AUDITED)
        for field, value in values.items():
            setattr(user, field, value)
        if values:
            user.save(update_fields=list(values))
            tx.audit(
                Action.USER_UPDATE,
                user,
                before=before,
                after=snapshot(user, *_AUDITED),
                target_name=user.email,
            )
    return user
