"""Signing in and out, and the sessions of a person. Used by the REST API and, through vault.adapter, by the sign-in page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.auth import BACKEND_SESSION_KEY, login, logout, update_session_auth_hash
from django.contrib.auth.hashers import check_password, make_password
from django.core.cache import cache
from django.http import HttpRequest
from django.utils import timezone

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, record_refusal
from vault.errors import NotFound, PermissionDenied, RateLimited, SecondFactorRequired, SignInFailed
from vault.models import User
from vault.secret import Secret
from vault.services import users
from vault.services.counters import caller_of, count_one, counted, forget

# Failures that are let through before the next attempt is not even looked at: by address and e-mail together, by
# address, and by e-mail from anywhere (high, so that a stranger does not lock a person out easily).
WINDOW_S = 300
MAX_FAILURES_PAIR = 5
MAX_FAILURES_ADDRESS = 30
MAX_FAILURES_EMAIL = 100
USE_NOTED_EVERY_S = 60
BACKEND = "vault.sign_in_backend.SignInBackend"


@dataclass(frozen=True)
class _Limit:
    key: str
    most: int


def _limits(email: str, source_ip: str | None) -> tuple[_Limit, ...]:
    address = caller_of(source_ip)
    return (
        _Limit(f"sign-in-failures:pair:{address}:{email}", MAX_FAILURES_PAIR),
        _Limit(f"sign-in-failures:address:{address}", MAX_FAILURES_ADDRESS),
        _Limit(f"sign-in-failures:email:{email}", MAX_FAILURES_EMAIL),
    )


@lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    """A hash that takes as long to check as a real one; made on first use with the hasher in force."""
    return make_password(users.new_one_time_password().reveal_text())


def verify_password(actor: Actor, email: str, password: Secret) -> User:
    """The person with that e-mail and password. `actor` is the anonymous caller: its address counts for the limits.

    Takes the time of one password hash whether or not the e-mail is known. Raises RateLimited before anything is looked at
    once there were too many failures; SignInFailed, always with the same words, for an unknown e-mail, a wrong password, a
    disabled account and a one-time password that has ended.
    """
    email = email.strip().lower()[:254]
    limits = _limits(email, actor.source_ip)
    if any(counted(limit.key) >= limit.most for limit in limits):
        raise RateLimited(
            "There were too many wrong passwords.",
            cure="Wait five minutes, then try again.",
            retry_after=WINDOW_S,
        )
    user = User.objects.filter(email=email).first()
    text = password.reveal_text()
    right = check_password(text, user.password if user is not None else _nobodys_hash())
    ended = user is not None and (
        user.must_change_password
        and user.one_time_password_expires_at is not None
        and user.one_time_password_expires_at <= timezone.now()
    )
    if user is None or not right or not user.is_active or ended:
        _note_failure(actor, email, limits)
        raise SignInFailed("E-mail or password is wrong, or this account may not sign in.")
    forget(limits[0].key)
    return user


def _note_failure(actor: Actor, email: str, limits: tuple[_Limit, ...]) -> None:
    for limit in limits:
        count_one(limit.key, WINDOW_S)
    record_refusal(actor, Action.SIGN_IN_REFUSED, target_name=email)


def _verify_second_factor(actor: Actor, user: User, code: str) -> None:
    """Raise SecondFactorRequired unless the account has no second factor or `code` is right (TOTP or a recovery code)."""
    kinds = (Authenticator.Type.TOTP, Authenticator.Type.RECOVERY_CODES)
    found = {row.type: row for row in Authenticator.objects.filter(user=user)}
    if not set(found) - {Authenticator.Type.RECOVERY_CODES}:
        return
    if code and any(kind in found and found[kind].wrap().validate_code(code.strip()) for kind in kinds):
        return
    if code:
        _note_failure(actor, user.email, _limits(user.email, actor.source_ip))
        raise SecondFactorRequired("The code is wrong, or was used already.", field="code")
    raise SecondFactorRequired("This account has a second factor.", field="code")


def sign_in(request: HttpRequest, actor: Actor, email: str, password: Secret, code: str = "") -> User:
    """Check e-mail, password and second factor, and begin a session on `request`.

    Raises SignInFailed, RateLimited, SecondFactorRequired.
    """
    user = verify_password(actor, email, password)
    _verify_second_factor(actor, user, code)
    begin_session(request, actor, user)
    return user


def begin_session(request: HttpRequest, actor: Actor, user: User) -> None:
    """Begin the session of a person who has proved to be `user`; the session's key is new (no fixation)."""
    with change(
        Actor(user=user, via=actor.via, source_ip=actor.source_ip, request_id=actor.request_id)
    ) as tx:
        login(request, user, backend=BACKEND)
        # allauth lists sessions by rows of its own, which it writes only when its own pages sign in.
        UserSession.objects.create_from_request(request)
        tx.audit(Action.SIGN_IN, user, target_name=user.email)


def sign_out(request: HttpRequest, actor: Actor) -> None:
    """End the session of `request`; without one, nothing happens."""
    if BACKEND_SESSION_KEY not in request.session:
        return
    with change(actor) as tx:
        tx.audit(Action.SIGN_OUT, actor.user, target_name=actor.user.email if actor.user is not None else "")
        UserSession.objects.filter(session_key=request.session.session_key).delete()
        logout(request)


def change_password(request: HttpRequest, actor: Actor, current: Secret, new: Secret) -> User:
    """Set a new password for the signed-in person, who proves the present one; this session goes on, all others end.

    Raises SignInFailed for a wrong present password, RateLimited, ValidationFailed, PermissionDenied for a token.
    """
    if actor.user is None or actor.token is not None:
        raise PermissionDenied("Passwords are changed by people, not by tokens.", cure="Sign in first.")
    user = verify_password(actor, actor.user.email, current)
    users.replace_password(actor, user, new)
    UserSession.objects.filter(user=user).exclude(session_key=request.session.session_key).delete()
    update_session_auth_hash(request, user)
    UserSession.objects.create_from_request(request)
    return user


def note_use(request: HttpRequest, source_ip: str | None) -> None:
    """Remember when and from where the session of `request` was last used, at most once a minute."""
    key = request.session.session_key
    if key and cache.add(f"session-used:{key}", 1, timeout=USE_NOTED_EVERY_S):
        UserSession.objects.filter(session_key=key).update(
            last_seen_at=timezone.now(), **({"ip": source_ip} if source_ip else {})
        )


def my_sessions(actor: Actor) -> list[UserSession]:
    """The person's sessions that still live, the newest first. Raises PermissionDenied for a token."""
    if actor.user is None or actor.token is not None:
        raise PermissionDenied(
            "Sessions belong to people, not to tokens.", cure="Sign in with e-mail and password."
        )
    found: list[UserSession] = UserSession.objects.purge_and_list(actor.user)
    return sorted(found, key=lambda session: session.created_at, reverse=True)


def revoke_session(actor: Actor, session_id: int) -> None:
    """End one of the person's own sessions at once, the present one included. Raises NotFound, PermissionDenied."""
    found = next((session for session in my_sessions(actor) if session.pk == session_id), None)
    if found is None:
        raise NotFound("There is no such session, or it is not yours.")
    with change(actor) as tx:
        tx.audit(Action.SESSION_REVOKE, actor.user, detail={"ip": found.ip, "user_agent": found.user_agent})
        found.end()
