"""Who acts, through what, from where; and the one place that decides whether they may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import models

from vault.errors import NotFound, PermissionDenied
from vault.models import ApiToken, Membership, Role, User, Vault
from vault.permissions import APPLIANCE_PERMISSIONS, ROLE_PERMISSIONS, Permission, lower_role


@dataclass
class Actor:
    """The person or process behind a request.

    `trusted` is only for our own workers and the local CLI, whose user owns the data folder anyway.
    """

    user: User | None = None
    token: ApiToken | None = None
    via: str = "api"
    source_ip: str | None = None
    request_id: str = ""
    trusted: bool = False
    name: str = ""
    # Called with the Change inside its transaction, last before the audit events (vault/api/idempotency.py).
    before_commit: list[Callable[[Any], None]] = field(default_factory=list, repr=False)
    _memberships: dict[UUID, Membership | None] = field(default_factory=dict, repr=False)

    @classmethod
    def system(cls, via: str, name: str = "", request_id: str = "") -> Actor:
        """An actor for Keystead's own work (`via` = worker, agent, cli)."""
        return cls(via=via, trusted=True, name=name or f"keystead {via}", request_id=request_id)

    @property
    def kind(self) -> str:
        """How the audit record calls this actor: user, token, system (Keystead itself) or anonymous."""
        if self.token is not None:
            return "token"
        if self.user is not None:
            return "user"
        return "system" if self.trusted else "anonymous"

    @property
    def id(self) -> str:
        """The user's id; empty for Keystead itself."""
        return str(self.user.pk) if self.user is not None else ""

    @property
    def display_name(self) -> str:
        """Text for the audit record; it outlives the user."""
        if self.user is None:
            return self.name
        return f"{self.user.email} (token {self.token.name})" if self.token else self.user.email

    def membership(self, vault_id: UUID) -> Membership | None:
        """The user's membership in that vault, read once a request."""
        if vault_id not in self._memberships:
            found = None
            if self.user is not None:
                found = Membership.objects.filter(user=self.user, vault_id=vault_id).first()
            self._memberships[vault_id] = found
        return self._memberships[vault_id]

    def role_in(self, vault_id: UUID) -> Role | None:
        """The effective role: the membership's, lowered by the token's ceiling; None when there is none."""
        if self.token is not None and self.token.vault_id not in (None, vault_id):
            return None
        membership = self.membership(vault_id)
        if membership is None:
            return None
        role = Role(membership.role)
        if self.token is not None and self.token.role:
            role = lower_role(role, Role(self.token.role))
        return role

    def permissions_in(self, vault_id: UUID) -> frozenset[Permission]:
        """What the actor may do in that vault, group ownership apart."""
        role = self.role_in(vault_id)
        return ROLE_PERMISSIONS[role] if role is not None else frozenset()

    @property
    def is_appliance_admin(self) -> bool:
        """Whether the actor looks after the installation. A token bound to a vault or a role never does."""
        if self.trusted:
            return True
        if self.token is not None and (self.token.vault_id is not None or self.token.role):
            return False
        return self.user is not None and self.user.is_active and self.user.is_appliance_admin

    def may(self, permission: Permission, target: Any = None) -> bool:
        """Whether `require` would pass."""
        try:
            self.require(permission, target)
        except (PermissionDenied, NotFound):
            return False
        return True

    def require(self, permission: Permission, target: Any = None) -> None:
        """Raise unless the actor may do `permission` on `target`: a Vault, a row with `vault`, None for the appliance.

        NotFound when the target's vault is not the actor's at all; PermissionDenied when the role, or the group that
        owns the object, does not allow it. Deny by default.
        """
        if self.trusted:
            return
        if permission in APPLIANCE_PERMISSIONS:
            if not self.is_appliance_admin:
                raise PermissionDenied(
                    "Only an appliance admin may do this.",
                    cure="Ask an appliance admin.",
                    permission=permission.value,
                )
            return
        vault_id = target.pk if isinstance(target, Vault) else getattr(target, "vault_id", None)
        role = self.role_in(vault_id) if vault_id is not None else None
        if vault_id is None or role is None:
            raise NotFound("There is no such object, or it is not yours.")
        if permission not in ROLE_PERMISSIONS[role]:
            raise PermissionDenied(
                f"Your role in this vault ({role.label}) does not allow {permission.value}.",
                cure="Ask a vault admin for a role that does, or to do it for you.",
                permission=permission.value,
            )
        if role != Role.VAULT_ADMIN and _is_change(permission):
            self._require_group(target)

    def _require_group(self, target: Any) -> None:
        group_id = owning_group_id(target)
        if group_id is None:
            return
        membership = self.membership(target.vault_id)
        if membership is None or not membership.groups.filter(pk=group_id).exists():
            raise PermissionDenied(
                "This object belongs to an admin group that you are not a member of.",
                cure="Ask a vault admin to add you to the group, or a member of it to do it.",
            )

    def visible(self, model: type[models.Model]) -> models.QuerySet[Any]:
        """All rows of a tenant model that the actor may see; every query of the API starts here."""
        rows = model._default_manager.all()
        if self.trusted:
            return rows
        if self.user is None:
            return rows.none()
        if model is Vault and self.is_appliance_admin:
            return rows
        path = "" if model is Vault else "vault__"
        rows = rows.filter(**{f"{path}memberships__user": self.user})
        if self.token is not None and self.token.vault_id is not None:
            rows = rows.filter(**{"pk" if model is Vault else "vault_id": self.token.vault_id})
        return rows

    def fetch(
        self, model: type[models.Model], pk: UUID | str, permission: Permission, *, lock: bool = False
    ) -> Any:
        """Authorise and fetch in one: foreign and missing rows alike raise NotFound; `lock` selects FOR UPDATE."""
        rows = self.visible(model)
        if lock:
            rows = rows.select_for_update(of=("self",)) if model._meta.db_table else rows
        row = rows.filter(pk=pk).first()
        if row is None:
            raise NotFound(f"There is no such {model._meta.verbose_name}, or it is not yours.")
        self.require(permission, row)
        return row


def _is_change(permission: Permission) -> bool:
    return not permission.value.endswith(".view")


def owning_group_id(target: Any) -> UUID | None:
    """The admin group that owns the object: its own, or that of the key set it belongs to."""
    for path in (
        ("group_id",),
        ("key_set", "group_id"),
        ("store", "key_set", "group_id"),
        ("cloud_key", "key_set", "group_id"),
    ):
        value: Any = target
        for name in path:
            if not hasattr(value, name):
                break
            value = getattr(value, name)
        else:
            return value if isinstance(value, UUID) else None
    return None
