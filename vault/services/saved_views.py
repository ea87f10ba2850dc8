"""Saved views: a list's filter and columns under a name, for oneself or for everybody in the vault."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import NotFound, PermissionDenied, ValidationFailed, check_revision
from vault.models import Role, SavedView, Vault
from vault.permissions import Permission

_AUDITED = ("page", "name", "query", "columns", "shared")


def visible_views(actor: Actor) -> QuerySet[SavedView]:
    """The person's own views and those that others share in the same vaults."""
    rows: QuerySet[SavedView] = actor.visible(SavedView)
    if actor.user is None:
        return rows
    return rows.filter(Q(user=actor.user) | Q(shared=True))


def fetch_view(actor: Actor, view_id: UUID) -> SavedView:
    """A visible view. Raises NotFound."""
    view = visible_views(actor).filter(pk=view_id).first()
    if view is None:
        raise NotFound("There is no such saved view, or it is not yours.")
    return view


def create_saved_view(
    actor: Actor,
    vault_id: UUID,
    *,
    page: str,
    name: str,
    query: str = "",
    columns: list[str] | None = None,
    shared: bool = False,
) -> SavedView:
    """Keep a filter under a name. Raises ValidationFailed when the person has that name on that page already."""
    if actor.user is None:
        raise PermissionDenied("Saved views belong to people.", cure="Sign in, or use a token.")
    with change(actor) as tx:
        vault: Vault = actor.fetch(Vault, vault_id, Permission.SAVED_VIEWS_MANAGE, lock=True)
        _require_free_name(vault.pk, actor.user.pk, page, name)
        view = SavedView.objects.create(
            vault=vault,
            user=actor.user,
            page=page,
            name=name,
            query=query,
            columns=columns or [],
            shared=shared,
        )
        tx.audit(Action.SAVED_VIEW_CREATE, view, after=snapshot(view, *_AUDITED))
    return view


def update_saved_view(
    actor: Actor, view_id: UUID, *, expected_revision: int | None = None, **values: Any
) -> SavedView:
    """Change name, query, columns or sharing. Raises PermissionDenied for another person's view, StaleRevision."""
    unknown = set(values) - {"name", "query", "columns", "shared"}
    if unknown:
        raise TypeError(f"a saved view has no {sorted(unknown)}")
    with change(actor) as tx:
        view = _fetch_own(actor, view_id)
        check_revision(view, expected_revision)
        before = snapshot(view, *_AUDITED)
        if values.get("name", view.name) != view.name:
            _require_free_name(view.vault_id, view.user_id, view.page, values["name"])
        for name, value in values.items():
            setattr(view, name, value)
        if snapshot(view, *_AUDITED) != before:
            view.revision += 1
            view.save(update_fields=[*values, "revision", "updated_at"])
            tx.audit(Action.SAVED_VIEW_UPDATE, view, before=before, after=snapshot(view, *_AUDITED))
    return view


def delete_saved_view(actor: Actor, view_id: UUID, *, expected_revision: int | None = None) -> None:
    """Remove a view. A vault admin may remove what others share, so that a leaver's views do not stay for ever."""
    with change(actor) as tx:
        view = _fetch_own(actor, view_id, admins=True)
        check_revision(view, expected_revision)
        tx.audit(Action.SAVED_VIEW_DELETE, view, before=snapshot(view, *_AUDITED))
        view.delete()


def _fetch_own(actor: Actor, view_id: UUID, *, admins: bool = False) -> SavedView:
    view = visible_views(actor).select_for_update(of=("self",)).filter(pk=view_id).first()
    if view is None:
        raise NotFound("There is no such saved view, or it is not yours.")
    actor.require(Permission.SAVED_VIEWS_MANAGE, view)
    mine = actor.trusted or (actor.user is not None and view.user_id == actor.user.pk)
    if not mine and not (admins and actor.role_in(view.vault_id) == Role.VAULT_ADMIN):
        raise PermissionDenied(
            "This view belongs to somebody else.", cure="Save it under a name of your own."
        )
    return view


def _require_free_name(vault_id: UUID, user_id: UUID, page: str, name: str) -> None:
    if SavedView.objects.filter(vault_id=vault_id, user_id=user_id, page=page, name=name).exists():
        raise ValidationFailed(
            "You have a view of this name on this page already.", field="name", cure="Choose another name."
        )
