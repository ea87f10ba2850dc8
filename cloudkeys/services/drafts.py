"""Drafts of key sets: what is typed in the wizard outlives reloads, windows and sessions, and makes one key set at most.

A draft is its writer's alone and changes nothing for anybody else, so it leaves no audit event; the key set made of it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from cloudkeys.models import KeySetDraft
from cloudkeys.services.key_sets import KeySetCreated, create_key_set
from cloudkeys.services.rows import require_live_vault
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.models import Vault
from vault.permissions import Permission

KEPT = timedelta(days=30)
MOST = 20
_LONGEST = 20_000


class DraftUsed(Conflict):
    """The key set of this draft was made already. `key_set_id` is None when it is gone since."""

    def __init__(self, key_set_id: UUID | None) -> None:
        super().__init__("The key set of this draft was made already.", cure="Look at it, or begin another.")
        self.key_set_id = key_set_id


def find_draft(actor: Actor, vault: Vault, draft_id: UUID) -> KeySetDraft | None:
    """The actor's draft, None when nothing was kept under that id yet. Somebody else's is NotFound."""
    actor.require(Permission.KEY_SETS_MANAGE, vault)
    draft = KeySetDraft.objects.filter(pk=draft_id).first()
    if draft is not None and (
        draft.vault_id != vault.pk or actor.user is None or draft.user_id != actor.user.pk
    ):
        raise NotFound("There is no such draft, or it is not yours.")
    return draft


def open_drafts(actor: Actor, vault: Vault, *, but: UUID | None = None) -> list[KeySetDraft]:
    """The actor's unfinished drafts of this vault, latest first."""
    actor.require(Permission.KEY_SETS_MANAGE, vault)
    rows = KeySetDraft.objects.filter(vault=vault, user=actor.user, made_at=None)
    if but is not None:
        rows = rows.exclude(pk=but)
    return list(rows.filter(updated_at__gte=timezone.now() - KEPT).order_by("-updated_at")[:MOST])


def save_step(
    actor: Actor,
    vault: Vault,
    draft_id: UUID,
    step: str,
    fields: Mapping[str, str],
    *,
    seen: int,
    window: str,
) -> KeySetDraft:
    """Keep what was typed in one step, right or wrong.

    `seen` is the step's revision that the page showed, `window` names the page: what another page of the same person has
    kept since is not overwritten unseen. Raises StaleRevision (context: current, fields), DraftUsed, ValidationFailed.
    """
    require_live_vault(vault)
    if actor.user is None:
        raise PermissionDenied("Drafts belong to people.", cure="Sign in.")
    if sum(len(value) for value in fields.values()) > _LONGEST:
        raise ValidationFailed("This is too much text.", cure="Shorten it.")
    with transaction.atomic():
        draft = find_draft(actor, vault, draft_id)
        if draft is None:
            _make_room(actor, vault)
            draft, _ = KeySetDraft.objects.get_or_create(
                pk=draft_id, defaults={"vault": vault, "user": actor.user}
            )
        draft = KeySetDraft.objects.select_for_update().get(pk=draft.pk)
        if draft.made_at is not None:
            raise DraftUsed(draft.key_set_id)
        now = draft.steps.get(step, {"fields": {}, "revision": 0, "window": ""})
        if now["fields"] == dict(fields):
            return draft
        if now["revision"] != seen and now["window"] != window:
            raise StaleRevision(
                "You changed this in another window.",
                current=now["revision"],
                fields=now["fields"],
            )
        draft.steps[step] = {"fields": dict(fields), "revision": now["revision"] + 1, "window": window}
        draft.save(update_fields=["steps", "updated_at"])
    return draft


def _make_room(actor: Actor, vault: Vault) -> None:
    """Forget drafts that are old, and the oldest of too many."""
    mine = KeySetDraft.objects.filter(vault=vault, user=actor.user)
    mine.filter(updated_at__lt=timezone.now() - KEPT).delete()
    extra = mine.order_by("-updated_at").values_list("pk", flat=True)[MOST - 1 :]
    mine.filter(pk__in=list(extra)).delete()


def discard_draft(actor: Actor, vault: Vault, draft_id: UUID) -> None:
    """Throw a draft away; nothing was made of it."""
    draft = find_draft(actor, vault, draft_id)
    if draft is not None and draft.made_at is None:
        draft.delete()


def create_from_draft(actor: Actor, vault: Vault, draft_id: UUID, **values: Any) -> KeySetCreated:
    """`create_key_set`, once a draft: two windows, double clicks and reloads make one. Raises DraftUsed and what that raises."""
    with change(actor):
        draft = find_draft(actor, vault, draft_id)
        if draft is None:
            raise NotFound("There is no such draft, or it is not yours.")
        draft = KeySetDraft.objects.select_for_update().get(pk=draft.pk)
        if draft.made_at is not None:
            raise DraftUsed(draft.key_set_id)
        made = create_key_set(actor, vault, **values)
        draft.made_at, draft.key_set, draft.steps = timezone.now(), made.key_set, {}
        draft.save(update_fields=["made_at", "key_set", "steps", "updated_at"])
    return made
