"""Vaults: made, described, switched off and on. (Their destruction must reach keys: cloudkeys/services.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import IntegrityError
from django.db.models import Q, QuerySet

from vault import keys, mail
from vault.actions import Action
from vault.actors import Actor
from vault.approvals import check_approval
from vault.changes import change, snapshot
from vault.errors import Conflict, NotFound, ValidationFailed, check_revision
from vault.generations import current_generation
from vault.models import GenerationChange, Group, Membership, Role, User, Vault
from vault.permissions import Permission
from vault.secret import Secret
from vault.services import second_factor
from vault.services.users import find_or_make_user

_AUDITED = ("type", "name", "description", "state", "blocked", "require_second_factor")


@dataclass(frozen=True)
class VaultCreated:
    """A new vault and its admin. `one_time_password` is None when it was mailed, or when the admin had an account already."""

    vault: Vault
    admin: User
    one_time_password: Secret | None
    mailed: bool


@dataclass(frozen=True)
class VaultChanged:
    """A vault after a switch, and the generation that the data plane has to confirm."""

    vault: Vault
    generation: int


def visible_vaults(actor: Actor) -> QuerySet[Vault]:
    """The vaults that the actor is a member of; all of them for the appliance admin, who sees no further into any."""
    if actor.is_appliance_admin:
        return Vault.objects.all()
    rows: QuerySet[Vault] = actor.visible(Vault)
    return rows


def fetch_vault(
    actor: Actor, vault_id: UUID, permission: Permission | None = None, *, lock: bool = False
) -> Vault:
    """A visible vault. `permission` is asked of members; the appliance admin passes for viewing and updating.

    Raises NotFound, PermissionDenied.
    """
    rows = visible_vaults(actor)
    if lock:
        rows = rows.select_for_update(of=("self",))
    vault = rows.filter(pk=vault_id).first()
    if vault is None:
        raise NotFound("There is no such vault, or it is not yours.")
    appliance = (
        permission in (None, Permission.VAULT_VIEW, Permission.VAULT_UPDATE) and actor.is_appliance_admin
    )
    if permission is not None and not appliance:
        actor.require(permission, vault)
    return vault


def create_vault(
    actor: Actor,
    *,
    name: str,
    admin_name: str,
    admin_email: str,
    description: str = "",
    type: str = Vault.Type.CLOUD_KEY_MANAGEMENT,
) -> VaultCreated:
    """Make a vault with a KEK of its own, its Cloud Admin Group, and its first vault admin as member of that group.

    A new admin gets a one-time password, mailed after the commit; where no mail is set up, or the server does not take it, it
    is returned to be shown once. Somebody with an account gets the membership only. Raises ValidationFailed,
    PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_VAULTS)
    _require_free_name(name)
    try:
        with change(actor) as tx:
            vault = Vault(id=uuid4(), type=type, name=name, description=description)
            vault.kek_blob = keys.new_vault_kek(vault.pk)
            vault.save(force_insert=True)
            tx.audit(Action.VAULT_CREATE, vault, after=snapshot(vault, *_AUDITED))
            admin, password = find_or_make_user(tx, admin_email, admin_name, field="admin_email")
            membership = Membership.objects.create(vault=vault, user=admin, role=Role.VAULT_ADMIN)
            group = Group.objects.create(
                vault=vault,
                name=Group.CLOUD_ADMIN_GROUP,
                description="Owns what no other group was named for.",
            )
            group.members.add(membership)
            tx.audit(Action.MEMBER_ADD, membership, target_name=admin.email, after={"role": membership.role})
            tx.audit(Action.GROUP_CREATE, group, after=snapshot(group, "name", "description"))
            tx.touch(GenerationChange.Kind.VAULT, vault.pk)
    except IntegrityError:
        # Two at once: the constraint is the last word.
        _require_free_name(name)
        raise
    if password is None:
        by = actor.display_name
        mailed = mail.mail_membership(admin, vault_name=vault.name, role=Role.VAULT_ADMIN.label, by=by)
        return VaultCreated(vault, admin, None, mailed)
    mailed = mail.mail_one_time_password(
        admin, password, reason=f'you are to look after the vault "{vault.name}" in Keystead'
    )
    return VaultCreated(vault, admin, None if mailed else password, mailed)


def _require_free_name(name: str, *, but: UUID | None = None) -> None:
    living = Vault.objects.filter(name=name).exclude(Q(pk=but) | Q(state=Vault.State.DESTROYED))
    if living.exists():
        raise ValidationFailed("Another vault has this name.", field="name", cure="Choose another name.")


def update_vault(
    actor: Actor,
    vault_id: UUID,
    *,
    name: str | None = None,
    description: str | None = None,
    require_second_factor: bool | None = None,
    expected_revision: int | None = None,
) -> Vault:
    """Rename or describe a vault, or demand a second factor of its members.

    Members without one then reach nothing but the pages that set it up; API tokens are not asked. Whoever demands it has one.
    Raises ValidationFailed, StaleRevision, Conflict once it is destroyed.
    """
    with change(actor) as tx:
        vault = fetch_vault(actor, vault_id, Permission.VAULT_UPDATE, lock=True)
        check_revision(vault, expected_revision)
        _require_living(vault)
        before = snapshot(vault, *_AUDITED)
        if name is not None and name != vault.name:
            _require_free_name(name, but=vault.pk)
            vault.name = name
        if description is not None:
            vault.description = description
        if require_second_factor is not None and require_second_factor != vault.require_second_factor:
            if require_second_factor:
                second_factor.require_own(actor)
            vault.require_second_factor = require_second_factor
        if snapshot(vault, *_AUDITED) != before:
            vault.revision += 1
            vault.save(
                update_fields=["name", "description", "require_second_factor", "revision", "updated_at"]
            )
            tx.audit(Action.VAULT_UPDATE, vault, before=before, after=snapshot(vault, *_AUDITED))
    return vault


def disable_vault(
    actor: Actor, vault_id: UUID, *, reason: str, expected_revision: int | None = None
) -> VaultChanged:
    """Refuse every use of every key of the vault, and every change of its keys, stores and accounts, until it is enabled.

    A vault that is disabled already stays so, without an error.
    """
    actor.require(Permission.APPLIANCE_MANAGE_VAULTS)
    return _switch(
        actor,
        vault_id,
        None,
        Action.VAULT_DISABLE,
        {"state": Vault.State.DISABLED},
        reason,
        expected_revision,
    )


def enable_vault(
    actor: Actor, vault_id: UUID, *, reason: str = "", expected_revision: int | None = None
) -> VaultChanged:
    """Serve a disabled vault's keys again, each as its own state says. May raise NeedsApproval."""
    actor.require(Permission.APPLIANCE_MANAGE_VAULTS)
    return _switch(
        actor, vault_id, None, Action.VAULT_ENABLE, {"state": Vault.State.ENABLED}, reason, expected_revision
    )


def block_vault(
    actor: Actor, vault_id: UUID, *, reason: str, expected_revision: int | None = None
) -> VaultChanged:
    """Refuse every use of every key of the vault in the data plane; nothing else changes, here or in AWS. For its admins."""
    return _switch(
        actor,
        vault_id,
        Permission.VAULT_BLOCK,
        Action.VAULT_BLOCK,
        {"blocked": True},
        reason,
        expected_revision,
    )


def unblock_vault(
    actor: Actor, vault_id: UUID, *, reason: str = "", expected_revision: int | None = None
) -> VaultChanged:
    """Undo block_vault. May raise NeedsApproval."""
    return _switch(
        actor,
        vault_id,
        Permission.VAULT_UNBLOCK,
        Action.VAULT_UNBLOCK,
        {"blocked": False},
        reason,
        expected_revision,
    )


def _switch(
    actor: Actor,
    vault_id: UUID,
    permission: Permission | None,
    action: Action,
    values: dict[str, Any],
    reason: str,
    expected_revision: int | None,
) -> VaultChanged:
    with change(actor) as tx:
        vault = fetch_vault(actor, vault_id, permission, lock=True)
        check_revision(vault, expected_revision)
        _require_living(vault)
        if all(getattr(vault, name) == value for name, value in values.items()):
            # Said twice: the answer still tells how far the data plane has got.
            return VaultChanged(vault, current_generation())
        if action in (Action.VAULT_ENABLE, Action.VAULT_UNBLOCK):
            check_approval(actor, action, vault)
        before = snapshot(vault, "state", "blocked")
        for name, value in values.items():
            setattr(vault, name, value)
        vault.revision += 1
        vault.save(update_fields=[*values, "revision", "updated_at"])
        tx.audit(action, vault, before=before, after=snapshot(vault, "state", "blocked"), reason=reason)
        tx.touch(GenerationChange.Kind.VAULT, vault.pk)
    return VaultChanged(vault, tx.generation or 0)


def _require_living(vault: Vault) -> None:
    if vault.state == Vault.State.DESTROYED:
        raise Conflict("This vault was destroyed.", cure="Nothing brings it back; make another.")
