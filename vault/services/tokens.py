"""API tokens: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import Conflict, NotFound, PermissionDenied, SignInFailed, ValidationFailed
from vault.models import ApiToken, Role, User, Vault
from vault.permissions import Permission, lower_role
from vault.secret import Secret

PREFIX = "kst_"
SHOWN_CHARACTERS = len(PREFIX) + 6
DEFAULT_LIFETIME = timedelta(days=90)
MAX_LIFETIME = timedelta(days=3660)
USE_NOTED_EVERY = timedelta(minutes=1)
# 256 random bits in base64url without padding are 43 characters.
_TOKEN = re.compile(r"kst_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class TokenCreated:
    """A new token and, this once, its text."""

    token: ApiToken
    secret: Secret


def create_token(
    actor: Actor,
    *,
    name: str,
    vault_id: UUID | None = None,
    role: str = "",
    expires_at: datetime | None = None,
    never_expires: bool = False,
) -> TokenCreated:
    """Make a token that acts as the signed-in person, no more than `role` allows and, when given, in one vault only.

    Without `expires_at` it lives for 90 days, unless `never_expires`. Raises PermissionDenied for a caller that is itself a
    token (a stolen one must not outlive its revocation), NotFound for a foreign vault, ValidationFailed.
    """
    user = _person(actor)
    now = timezone.now()
    if expires_at is not None and not now < expires_at <= now + MAX_LIFETIME:
        raise ValidationFailed(
            "The end of a token's life lies in the past or more than ten years ahead.",
            field="expires_at",
            cure="Choose a later moment, or an earlier one.",
        )
    vault = None
    if vault_id is not None:
        vault = actor.visible(Vault).filter(pk=vault_id).first()
        own = actor.role_in(vault_id) if vault is not None else None
        if vault is None or own is None:
            raise NotFound("There is no such vault, or it is not yours.", field="vault")
        if role and lower_role(own, Role(role)) != Role(role):
            raise ValidationFailed(
                f"Your own role in this vault ({own.label}) is lower.",
                field="role",
                cure="Leave the role out, or choose a lower one.",
            )
    if not never_expires and expires_at is None:
        expires_at = now + DEFAULT_LIFETIME
    text = PREFIX + secrets.token_urlsafe(32)
    with change(actor) as tx:
        token = ApiToken.objects.create(
            user=user,
            vault=vault,
            role=role,
            name=name,
            prefix=text[:SHOWN_CHARACTERS],
            digest=digest(text),
            expires_at=expires_at,
        )
        tx.audit(
            Action.TOKEN_CREATE,
            token,
            vault=vault,
            after=snapshot(token, "name", "prefix", "role", "expires_at"),
        )
    return TokenCreated(token, Secret(text))


def digest(text: str) -> str:
    """SHA-256 in hex. A slow hash adds nothing: the token has 256 random bits, which nobody guesses."""
    return hashlib.sha256(text.encode()).hexdigest()


def authenticate_token(text: str, *, source_ip: str | None) -> ApiToken:
    """The live token with this text, its use noted at most once a minute.

    Found by its hash, so that the time taken tells nothing about the tokens that exist. Raises SignInFailed, always with the
    same words, when it is unknown, revoked, expired or its owner is disabled.
    """
    refused = SignInFailed(
        "This token is unknown, expired or revoked.", cure="Make a new one at /api/v1/auth/tokens."
    )
    if not _TOKEN.fullmatch(text):
        raise refused
    token = ApiToken.objects.select_related("user").filter(digest=digest(text)).first()
    now = timezone.now()
    if (
        token is None
        or token.revoked_at is not None
        or (token.expires_at is not None and token.expires_at <= now)
        or not token.user.is_active
    ):
        raise refused
    due = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED_EVERY) | ~Q(last_used_ip=source_ip)
    if token.last_used_at is None or token.last_used_at < now - USE_NOTED_EVERY:
        ApiToken.objects.filter(due, pk=token.pk).update(last_used_at=now, last_used_ip=source_ip)
    return token


def my_tokens(actor: Actor) -> QuerySet[ApiToken]:
    """The person's own tokens, revoked ones too. Raises PermissionDenied for a caller that is itself a token."""
    return ApiToken.objects.filter(user=_person(actor)).select_related("vault")


def fetch_token(actor: Actor, token_id: UUID) -> ApiToken:
    """One of the person's own tokens. Raises NotFound, PermissionDenied."""
    token = my_tokens(actor).filter(pk=token_id).first()
    if token is None:
        raise NotFound("There is no such token, or it is not yours.")
    return token


def revoke_token(actor: Actor, token_id: UUID) -> ApiToken:
    """End a token at once; one that is revoked already stays so. A token may revoke itself, and no other."""
    with change(actor) as tx:
        rows: QuerySet[Any] = (
            ApiToken.objects.filter(user=actor.user) if actor.user is not None else ApiToken.objects.none()
        )
        if actor.token is not None:
            rows = rows.filter(pk=actor.token.pk)
        token: ApiToken | None = rows.select_for_update(of=("self",)).filter(pk=token_id).first()
        if token is None:
            raise NotFound("There is no such token, or it is not yours.")
        if token.revoked_at is None:
            token.revoked_at = timezone.now()
            token.save(update_fields=["revoked_at"])
            tx.audit(Action.TOKEN_REVOKE, token, after=snapshot(token, "name", "prefix", "revoked_at"))
    return token


def vault_tokens(actor: Actor, vault_id: UUID) -> QuerySet[ApiToken]:
    """The tokens that reach a vault: made for it alone, or for all vaults of one of its members. For its admins.

    Raises NotFound, PermissionDenied.
    """
    vault: Vault = actor.fetch(Vault, vault_id, Permission.MEMBERS_MANAGE)
    reach = Q(vault=vault) | Q(vault=None)
    return ApiToken.objects.filter(reach, user__memberships__vault=vault).select_related("user", "vault")


def revoke_vault_token(actor: Actor, vault_id: UUID, token_id: UUID, *, reason: str = "") -> ApiToken:
    """End a member's token that was made for this vault alone, at once; one that is revoked already stays so.

    Raises Conflict for a token that reaches other vaults too, which are not this admin's, NotFound, PermissionDenied.
    """
    with change(actor) as tx:
        token = vault_tokens(actor, vault_id).select_for_update(of=("self",)).filter(pk=token_id).first()
        if token is None:
            raise NotFound("There is no such token in this vault.")
        if token.vault_id is None:
            raise Conflict(
                "This token reaches every vault of its owner, so only its owner ends it.",
                cure="Ask the owner, or remove the owner from this vault: the token then no longer reaches it.",
            )
        if token.revoked_at is None:
            token.revoked_at = timezone.now()
            token.save(update_fields=["revoked_at"])
            tx.audit(
                Action.TOKEN_REVOKE,
                token,
                vault=token.vault,
                after=snapshot(token, "name", "prefix", "revoked_at"),
                reason=reason,
            )
    return token


def _person(actor: Actor) -> User:
    """The signed-in person. Raises PermissionDenied for tokens and for Keystead itself."""
    if actor.token is not None or actor.user is None:
        raise PermissionDenied(
            "Tokens are managed by people, not by tokens.", cure="Sign in with e-mail and password."
        )
    return actor.user
