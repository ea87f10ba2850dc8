"""Picking administrators and users of keys by typing: the account's IAM users and roles, asked for once a minute at most."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.core.cache import cache
from django.utils import timezone

from cloudkeys import providers
from cloudkeys.models import CspAccount
from cloudkeys.providers.base import Principal
from vault.actors import Actor
from vault.permissions import Permission

KEPT_S = 60
MOST = 100


@dataclass(frozen=True)
class PrincipalPage:
    """A page of principals. `next_offset` is None on the last; `fetched_at`: when the cloud was asked."""

    items: list[Principal]
    next_offset: int | None
    total: int
    fetched_at: datetime


def pick_principals(
    actor: Actor,
    account_id: UUID,
    *,
    search: str = "",
    kind: str = "",
    offset: int = 0,
    limit: int = 20,
    fresh: bool = False,
) -> PrincipalPage:
    """IAM users and roles (`kind` "user" or "role") of the account whose ARN holds `search`; beginnings of names first.

    Answers come from what the cloud said within the last minute, unless `fresh`. Raises ProviderError, NotFound,
    PermissionDenied.
    """
    account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_VIEW)
    # The credential is part of the name: a changed one may belong to another AWS account.
    key = f"principals:{account.pk}:{account.access_key_id}:{account.revision}"
    held = None if fresh else cache.get(key)
    if held is None:
        held = (timezone.now(), providers.list_principals(account))
        cache.set(key, held, timeout=KEPT_S)
    fetched_at, principals = held
    wanted = search.strip().lower()
    found = [
        each
        for each in principals
        if wanted in each.arn.lower() and (not kind or each.kind.lower() == kind.lower())
    ]
    found.sort(key=lambda each: (not each.name.lower().startswith(wanted), each.name.lower(), each.arn))
    offset, limit = max(offset, 0), max(1, min(limit, MOST))
    following = offset + limit
    return PrincipalPage(
        found[offset:following], following if following < len(found) else None, len(found), fetched_at
    )
