"""Groups: people of a vault who together own CSP accounts and key sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import PROTECT, RESTRICT, ProtectedError, RestrictedError

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NotFound, ValidationFailed, check_revision
from vault.models import Group, Membership, Vault
from vault.permissions import Permission


@dataclass(frozen=True)
class Owned:
    """What a group owns of one kind: how many, and some of them by name."""

    kind: str
    count: int
    names: tuple[str, ...]


def owned_by(actor: Actor, group_id: UUID) -> list[Owned]:
    """What keeps a group from being deleted. Two queries for each kind, whatever the number. Raises NotFound, PermissionDenied."""
    group: Group = actor.fetch(Group, group_id, Permission.MEMBERS_VIEW)
    found = []
    for relation in group._meta.related_objects:
        if relation.on_delete not in (PROTECT, RESTRICT):
            continue
        meta = relation.related_model._meta
        rows = relation.related_model._default_manager.filter(**{relation.field.name: group})
        count = rows.count()
        if count:
            kind = meta.verbose_name if count == 1 else meta.verbose_name_plural
            found.append(Owned(str(kind), count, tuple(str(row) for row in rows.order_by("pk")[:10])))
    return found


def create_group(
    actor: Actor, vault_id: UUID, *, name: str, description: str = "", member_ids: Sequence[UUID] = ()
) -> Group:
    """Make a group of a vault's members (ids of memberships). Raises ValidationFailed, NotFound, PermissionDenied."""
    with change(actor) as tx:
        vault: Vault = actor.fetch(Vault, vault_id, Permission.MEMBERS_MANAGE, lock=True)
        if vault.state == Vault.State.DESTROYED:
            raise NotFound("There is no such vault, or it is not yours.")
        _require_free_name(vault, name)
        group = Group.objects.create(vault=vault, name=name, description=description)
        group.members.set(_members(vault, member_ids))
        tx.audit(Action.GROUP_CREATE, group, after=_state(group))
    return group


def update_group(
    actor: Actor,
    group_id: UUID,
    *,
    name: str | None = None,
    description: str | None = None,
    member_ids: Sequence[UUID] | None = None,
    expected_revision: int | None = None,
) -> Group:
    """Rename a group, describe it, or set all its members at once.

    Raises ValidationFailed, StaleRevision, NotFound, PermissionDenied.
    """
    with change(actor) as tx:
        group = _fetch(actor, group_id)
        check_revision(group, expected_revision)
        before = _state(group)
        if name is not None and name != group.name:
            _require_free_name(group.vault, name)
            group.name = name
        if description is not None:
            group.description = description
        if member_ids is not None:
            group.members.set(_members(group.vault, member_ids))
        after = _state(group)
        if after != before:
            group.revision += 1
            group.save(update_fields=["name", "description", "revision", "updated_at"])
            tx.audit(Action.GROUP_UPDATE, group, before=before, after=after)
    return group


def delete_group(actor: Actor, group_id: UUID, *, expected_revision: int | None = None) -> None:
    """Remove a group that owns nothing. Raises Conflict naming what it still owns, StaleRevision, NotFound, PermissionDenied."""
    with change(actor) as tx:
        group = _fetch(actor, group_id)
        check_revision(group, expected_revision)
        tx.audit(Action.GROUP_DELETE, group, before=_state(group))
        try:
            group.delete()
        except (ProtectedError, RestrictedError) as error:
            owned = [f"{row._meta.verbose_name} {row}" for row in sorted(error.args[1], key=str)[:5]]
            raise Conflict(
                f"This group still owns {', '.join(owned)}.", cure="Give these to another group first."
            ) from None


def _fetch(actor: Actor, group_id: UUID) -> Group:
    """The group, its vault locked so that changes of names and members take turns."""
    found: Group = actor.fetch(Group, group_id, Permission.MEMBERS_MANAGE)
    Vault.objects.select_for_update().get(pk=found.vault_id)
    return _fetch_again(actor, group_id)


def _fetch_again(actor: Actor, group_id: UUID) -> Group:
    group: Group = actor.fetch(Group, group_id, Permission.MEMBERS_MANAGE, lock=True)
    return group


def _require_free_name(vault: Vault, name: str) -> None:
    if Group.objects.filter(vault=vault, name=name).exists():
        raise ValidationFailed(
            "Another group of this vault has this name.", field="name", cure="Choose another name."
        )


def _members(vault: Vault, member_ids: Sequence[UUID]) -> list[Membership]:
    wanted = set(member_ids)
    found = list(Membership.objects.filter(vault=vault, pk__in=wanted))
    if len(found) != len(wanted):
        raise ValidationFailed(
            "One of these is no member of this vault.",
            field="members",
            cure="Send ids of the vault's memberships.",
        )
    return found


def _state(group: Group) -> dict[str, object]:
    return {
        "name": group.name,
        "description": group.description,
        "members": sorted(group.members.values_list("user__email", flat=True)),
    }
