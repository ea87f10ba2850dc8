"""Who belongs to a vault, in which role. A vault never loses its last admin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from vault import mail
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, ValidationFailed, check_revision
from vault.models import Group, Membership, Role, Vault
from vault.permissions import Permission
from vault.secret import Secret
from vault.services.users import find_or_make_user


@dataclass(frozen=True)
class MemberAdded:
    """A new member. `one_time_password` is None when it was mailed, or when the person had an account already."""

    membership: Membership
    one_time_password: Secret | None
    mailed: bool


def add_member(
    actor: Actor, vault_id: UUID, *, email: str, role: str, name: str = "", group_ids: Sequence[UUID] = ()
) -> MemberAdded:
    """Add a person to a vault, making an account where there is none.

    The one-time password of a new account goes as create_vault says. Raises ValidationFailed (already a member, unknown
    group), NotFound, PermissionDenied, Conflict.
    """
    with change(actor) as tx:
        vault = _fetch_vault(actor, vault_id)
        user, password = find_or_make_user(tx, email, name)
        if Membership.objects.filter(vault=vault, user=user).exists():
            raise ValidationFailed(
                "This person is a member already.",
                field="email",
                cure="Change the role of the member instead.",
            )
        membership = Membership.objects.create(vault=vault, user=user, role=role)
        membership.groups.set(_groups(vault, group_ids))
        tx.audit(Action.MEMBER_ADD, membership, target_name=user.email, after=_state(membership))
    if password is None:
        by = actor.display_name
        mailed = mail.mail_membership(user, vault_name=vault.name, role=Role(role).label, by=by)
        return MemberAdded(membership, None, mailed)
    mailed = mail.mail_one_time_password(
        user, password, reason=f'you were added to the vault "{vault.name}" in Keystead'
    )
    return MemberAdded(membership, None if mailed else password, mailed)


def update_member(
    actor: Actor,
    membership_id: UUID,
    *,
    role: str | None = None,
    group_ids: Sequence[UUID] | None = None,
    expected_revision: int | None = None,
) -> Membership:
    """Change a member's role, or the groups they belong to (all of them at once).

    Raises Conflict when the vault would lose its last admin, StaleRevision, ValidationFailed, NotFound, PermissionDenied.
    """
    with change(actor) as tx:
        membership = _fetch(actor, membership_id)
        check_revision(membership, expected_revision)
        before = _state(membership)
        if role is not None and role != membership.role:
            if membership.role == Role.VAULT_ADMIN:
                _require_other_admin(membership)
            membership.role = role
        if group_ids is not None:
            membership.groups.set(_groups(membership.vault, group_ids))
        after = _state(membership)
        if after != before:
            membership.revision += 1
            membership.save(update_fields=["role", "revision", "updated_at"])
            tx.audit(
                Action.MEMBER_UPDATE,
                membership,
                target_name=membership.user.email,
                before=before,
                after=after,
            )
    return membership


def remove_member(actor: Actor, membership_id: UUID, *, expected_revision: int | None = None) -> None:
    """Take a person out of a vault, at once: every request asks for the membership anew. The account stays.

    Raises Conflict for the last admin, StaleRevision, NotFound, PermissionDenied.
    """
    with change(actor) as tx:
        membership = _fetch(actor, membership_id)
        check_revision(membership, expected_revision)
        if membership.role == Role.VAULT_ADMIN:
            _require_other_admin(membership)
        tx.audit(
            Action.MEMBER_REMOVE, membership, target_name=membership.user.email, before=_state(membership)
        )
        membership.delete()


def _fetch_vault(actor: Actor, vault_id: UUID) -> Vault:
    """The vault, locked: changes of its members take turns, so that two cannot remove the last two admins."""
    vault: Vault = actor.fetch(Vault, vault_id, Permission.MEMBERS_MANAGE, lock=True)
    if vault.state == Vault.State.DESTROYED:
        raise Conflict("This vault was destroyed.", cure="Nothing brings it back; make another.")
    return vault


def _fetch(actor: Actor, membership_id: UUID) -> Membership:
    found: Membership = actor.fetch(Membership, membership_id, Permission.MEMBERS_MANAGE)
    _fetch_vault(actor, found.vault_id)
    # Again, now that the vault is locked: the row may have changed, or gone.
    membership: Membership = actor.fetch(Membership, membership_id, Permission.MEMBERS_MANAGE, lock=True)
    return membership


def _require_other_admin(membership: Membership) -> None:
    others = Membership.objects.filter(
        vault_id=membership.vault_id, role=Role.VAULT_ADMIN, user__is_active=True
    ).exclude(pk=membership.pk)
    if not others.exists():
        raise Conflict(
            "This is the vault's last admin, and a vault must have one.",
            cure="Make somebody else vault admin first.",
        )


def _groups(vault: Vault, group_ids: Sequence[UUID]) -> list[Group]:
    wanted = set(group_ids)
    found = list(Group.objects.filter(vault=vault, pk__in=wanted))
    if len(found) != len(wanted):
        raise ValidationFailed(
            "There is no such group in this vault.", field="groups", cure="Pick from the vault's groups."
        )
    return found


def _state(membership: Membership) -> dict[str, object]:
    return {"role": membership.role, "groups": sorted(membership.groups.values_list("name", flat=True))}
